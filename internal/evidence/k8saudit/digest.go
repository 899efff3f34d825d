package k8saudit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// noise are the members of metadata that differ between two writes of the same
// content.
var noise = [...]string{"managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "selfLink"}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// describe adds what the objects, if the audit level gives them, say of a
// change: the name that the server gave, the version that is stored, and the
// digest.
//
// The digest is SHA-256 of {"request":…,"response":…} with the members that are
// there, in a canonical form: keys sorted by their bytes, no space, numbers as
// written, strings escaped as encoding/json does without HTML. Of each object
// status, noise and the last-applied annotation are left out, of a Secret its
// data too, whose digest could be guessed.
func describe(a *audit, e *evidence.Evidence) {
	objects := make(map[string]any, 2)
	for _, o := range [...]struct {
		name string
		raw  []byte
	}{{"request", a.request}, {"response", a.response}} {
		v, ok := parse(o.raw)
		if !ok {
			continue
		}
		if m, ok := v.(map[string]any); ok {
			meta, _ := m["metadata"].(map[string]any)
			if e.Act.Change.Name == "" {
				e.Act.Change.Name = bounded(meta["name"])
			}
			if version := bounded(meta["resourceVersion"]); o.name == "response" && version != "" {
				e.Act.Change.Revision = version
			}
			strip(m, meta, a.resource == "secrets")
		} else if a.resource == "secrets" {
			continue // a JSON patch: its values are data
		}
		objects[o.name] = v
	}
	if name := e.Act.Change.Name; a.name == "" && name != "" {
		if e.Act.TargetID = name; a.namespace != "" {
			e.Act.TargetID = a.namespace + "/" + name
		}
	}
	if len(objects) == 0 {
		return
	}
	h := sha256.New()
	enc := json.NewEncoder(trimmed{h})
	enc.SetEscapeHTML(false)
	if enc.Encode(objects) == nil {
		e.Act.Change.DiffSHA256 = hex.EncodeToString(h.Sum(nil))
	}
}

// trimmed passes on what the encoder writes, at once, without the newline at
// its end.
type trimmed struct {
	w interface{ Write([]byte) (int, error) }
}

func (t trimmed) Write(b []byte) (int, error) {
	_, err := t.w.Write(bytes.TrimSuffix(b, []byte("\n")))
	return len(b), err
}

// parse reads an object that the cursor has checked.
func parse(raw []byte) (v any, ok bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return v, d.Decode(&v) == nil
}

func bounded(v any) string {
	s, _ := v.(string)
	return evidence.Text(s, evidence.MaxName)
}

func strip(object, meta map[string]any, secret bool) {
	delete(object, "status")
	if secret {
		delete(object, "data")
		delete(object, "stringData")
		delete(object, "items") // of a list
	}
	for _, name := range noise {
		delete(meta, name)
	}
	if annotations, ok := meta["annotations"].(map[string]any); ok {
		if delete(annotations, lastApplied); len(annotations) == 0 {
			delete(meta, "annotations")
		}
	}
}
