package imagestore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// topKeys returns the member names of the JSON object b. Names that differ from
// another one only by case, or that occur twice, are an error: two readers
// could then see two different documents under one digest.
func topKeys(b []byte) ([]string, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	} else if t != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	var keys []string
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, jsonError(err)
		}
		key, _ := t.(string)
		for _, k := range keys {
			if strings.EqualFold(k, key) {
				return nil, fmt.Errorf("ambiguous: it has %q and %q", k, key)
			}
		}
		if len(keys) == 64 {
			return nil, errors.New("it has more than 64 members")
		}
		keys = append(keys, key)
		if err := checkKeys(dec, slices.Contains(withDescriptors, key), 0); err != nil {
			return nil, fmt.Errorf("%s: %w", clip(key), err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	}
	return keys, nil
}

// withDescriptors are the members of manifests and indexes that have descriptors, and
// those the names that these have.
var (
	withDescriptors = []string{"config", "layers", "manifests", "subject"}
	descriptorNames = []string{
		"mediaType", "digest", "size", "urls", "annotations", "data", "artifactType",
		"platform", "architecture", "os", "os.version", "os.features", "variant",
	}
)

// checkKeys reads a value and refuses what two readers may see differently: a name that
// is there twice, and in descriptors also names that differ by case from another one or
// from a specified one. Names of annotations are anybody's.
func checkKeys(dec *json.Decoder, descriptors bool, depth int) error {
	if depth > 32 {
		return errors.New("it is nested more than 32 deep")
	}
	t, err := dec.Token()
	if err != nil {
		return jsonError(err)
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '[' {
			if err := checkKeys(dec, descriptors, depth+1); err != nil {
				return err
			}
			continue
		}
		t, err := dec.Token()
		if err != nil {
			return jsonError(err)
		}
		key, _ := t.(string)
		if seen[key] {
			return fmt.Errorf("ambiguous: %q is there twice", clip(key))
		}
		seen[key] = true
		if descriptors {
			for _, name := range descriptorNames {
				if name != key && strings.EqualFold(name, key) {
					return fmt.Errorf("ambiguous: member %q differs by case from the specified one", clip(key))
				}
			}
		}
		if err := checkKeys(dec, descriptors && key != "annotations", depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return jsonError(err)
}

func jsonError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("it ends within the JSON text")
	}
	return err
}

// checkBody applies what is common to manifests and indexes: the schema, the
// media type in the body against the one it was found under, and that the body
// cannot be read as the other kind (CVE-2021-41190).
func checkBody(b []byte, mediaType string, forbidden ...string) error {
	keys, err := topKeys(b)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if strings.EqualFold(k, "fsLayers") {
			return fmt.Errorf("docker image manifest version 2, schema 1: %w", errors.ErrUnsupported)
		}
		for _, f := range forbidden {
			if strings.EqualFold(k, f) {
				return fmt.Errorf("ambiguous: a %s must not have %q", kind(mediaType), k)
			}
		}
		switch {
		case k == "schemaVersion", k == "mediaType", k == "config", k == "layers", k == "manifests":
		case strings.EqualFold(k, "schemaVersion"), strings.EqualFold(k, "mediaType"), strings.EqualFold(k, "config"),
			strings.EqualFold(k, "layers"), strings.EqualFold(k, "manifests"):
			// encoding/json would match it, other readers do not.
			return fmt.Errorf("ambiguous: member %q differs by case from the specified one", k)
		}
	}
	var head struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	if head.SchemaVersion != 2 {
		return fmt.Errorf("schemaVersion is %d, want 2", head.SchemaVersion)
	}
	if head.MediaType != "" && head.MediaType != mediaType {
		return fmt.Errorf("ambiguous: its mediaType is %q, its descriptor says %q", head.MediaType, mediaType)
	}
	return nil
}

func kind(mediaType string) string {
	if isIndexType(mediaType) {
		return "index"
	}
	return "manifest"
}

// ParseManifest reads an image manifest that a descriptor of the given media
// type refers to and checks every descriptor in it.
func ParseManifest(b []byte, mediaType string) (*Manifest, error) {
	if !isManifestType(mediaType) {
		return nil, fmt.Errorf("media type %q is no image manifest: %w", mediaType, errors.ErrUnsupported)
	}
	if err := checkBody(b, mediaType, "manifests"); err != nil {
		return nil, err
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if len(m.Layers) > MaxLayers {
		return nil, fmt.Errorf("it has %d layers, more than %d", len(m.Layers), MaxLayers)
	}
	if err := m.Config.check(); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	for i := range m.Layers {
		if err := m.Layers[i].check(); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return &m, nil
}

// ParseIndex reads an image index that a descriptor of the given media type
// refers to and checks every descriptor in it.
func ParseIndex(b []byte, mediaType string) (*Index, error) {
	if !isIndexType(mediaType) {
		return nil, fmt.Errorf("media type %q is no image index: %w", mediaType, errors.ErrUnsupported)
	}
	if err := checkBody(b, mediaType, "layers", "config"); err != nil {
		return nil, err
	}
	var x Index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, err
	}
	if len(x.Manifests) > MaxEntries {
		return nil, fmt.Errorf("it has %d manifests, more than %d", len(x.Manifests), MaxEntries)
	}
	for i := range x.Manifests {
		if err := x.Manifests[i].check(); err != nil {
			return nil, fmt.Errorf("manifest %d: %w", i+1, err)
		}
	}
	return &x, nil
}

// ParseConfig reads the configuration of an image and checks what the store
// relies on. layers is the number of layers of the manifest.
func ParseConfig(b []byte, layers int) (*Config, error) {
	if err := checkKeys(json.NewDecoder(bytes.NewReader(b)), false, 0); err != nil {
		return nil, err
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("rootfs.type is %q, want \"layers\"", clip(c.RootFS.Type))
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := d.Check(); err != nil {
			return nil, fmt.Errorf("rootfs.diff_ids[%d]: %w", i, err)
		}
	}
	if n := len(c.RootFS.DiffIDs); n != layers {
		return nil, fmt.Errorf("the config has %d diff IDs, the manifest %d layers", n, layers)
	}
	return &c, nil
}

func (d *Descriptor) check() error {
	if err := d.Digest.Check(); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s: size %d is negative", d.Digest, d.Size)
	}
	return nil
}
