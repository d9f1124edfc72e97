package clients

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// image makes an archive as docker save does, of the image docker.io/library/img:1.
func (c *client) image() string {
	c.t.Helper()
	layer, err := os.ReadFile(c.rootfs())
	if err != nil {
		c.t.Fatal(err)
	}
	config := fmt.Sprintf(`{"architecture":%q,"os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`,
		runtime.GOARCH, sha256.Sum256(layer))
	var b strings.Builder
	w := tar.NewWriter(&b)
	for _, f := range []struct{ name, data string }{
		{"config.json", config},
		{"layer.tar", string(layer)},
		{"manifest.json", `[{"Config":"config.json","RepoTags":["docker.io/library/img:1"],"Layers":["layer.tar"]}]`},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			c.t.Fatal(err)
		}
		if _, err := bytes.NewBufferString(f.data).WriteTo(w); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		c.t.Fatal(err)
	}
	return c.write("image.tar", b.String(), 0o644)
}
