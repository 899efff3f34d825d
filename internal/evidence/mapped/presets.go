package mapped

import (
	_ "embed"
	"fmt"

	"go.yaml.in/yaml/v3"
)

//go:embed presets.yaml
var presets []byte

// PresetNames are the mappings that come with the program.
var PresetNames = []string{"pomerium", "oauth2_proxy"}

// Preset is one of them: data in the form of a configuration's, to read and to
// copy.
func Preset(name string) ([]Case, error) {
	var all map[string][]Case
	if err := yaml.Unmarshal(presets, &all); err != nil {
		return nil, fmt.Errorf("presets: %w", err)
	}
	if len(all[name]) == 0 {
		return nil, fmt.Errorf("presets: there is no %q", name)
	}
	return all[name], nil
}
