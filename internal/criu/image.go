package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// File is the name of what minirun adds to the images.
const File = "minirun.json"

// image is its content.
type image struct {
	Version int                 `json:"version"`
	Outside []string            `json:"outside"` // mount points whose source is on the host
	Mounts  map[string][]string `json:"mounts"`  // attributes by mount point
	Streams [3]string           `json:"streams"` // what criu calls the standard streams, "" for those inside
	Status  map[string]string   `json:"status"`  // of the init: what it may do, as /proc/PID/status has it
}

func (m *image) save(dir string) error {
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, File), append(raw, '\n'), 0o600)
}

func loadImage(dir string) (*image, error) {
	path := filepath.Join(dir, File)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("images in %q: %w: there is no %s", dir, errNoImage, File)
	}
	if err != nil {
		return nil, err
	}
	m := new(image)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("%s: has version %d, this minirun reads 1", path, m.Version)
	}
	return m, nil
}
