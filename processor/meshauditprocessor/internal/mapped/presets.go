package mapped

import (
	_ "embed"
	"fmt"

	"go.opentelemetry.io/collector/confmap"
)

//go:embed presets.yaml
var presets []byte

// PresetNames are the mappings that come with the program.
var PresetNames = []string{"pomerium", "oauth2_proxy"}

// Preset is one of them: data in the form of a configuration's, to read and to
// copy.
func Preset(name string) ([]Case, error) {
	retrieved, err := confmap.NewRetrievedFromYAML(presets)
	if err != nil {
		return nil, fmt.Errorf("presets: %w", err)
	}
	conf, err := retrieved.AsConf()
	if err != nil {
		return nil, fmt.Errorf("presets: %w", err)
	}
	var all map[string][]Case
	if err := conf.Unmarshal(&all); err != nil {
		return nil, fmt.Errorf("presets: %w", err)
	}
	if len(all[name]) == 0 {
		return nil, fmt.Errorf("presets: there is no %q", name)
	}
	return all[name], nil
}
