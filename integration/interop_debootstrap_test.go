package integration

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// debootstraps are Debian systems as people make images of them.
var debootstraps = []struct {
	tag  string
	args []string
}{
	{"bookworm-minbase", []string{"--variant=minbase", "bookworm"}},
	{"trixie-minbase", []string{"--variant=minbase", "trixie"}},
	{"bookworm-python", []string{"--variant=minbase", "--include=python3-minimal,iputils-ping,busybox-static", "bookworm"}},
}

// debootstrapped makes images with debootstrap, which needs a mirror: not part of
// the tests that are always run.
func debootstrapped(t *testing.T) {
	x := newInterop(t)
	l := newLayout(t, x.dir+"/layout")
	var tags []string
	for _, d := range debootstraps {
		root := x.dir + "/" + d.tag
		if out, err := exec.Command("debootstrap", append(d.args[:len(d.args):len(d.args)], root)...).CombinedOutput(); err != nil {
			t.Fatalf("debootstrap %q: %v\n%s", d.args, err, out[max(0, len(out)-2000):])
		}
		base := l.layer(func(w *tar.Writer) error { return packed(w, root) })
		// What an image's author adds: files of the base go, and one is another's.
		more := l.layer(func(w *tar.Writer) error {
			for _, h := range []tar.Header{
				{Typeflag: tar.TypeDir, Name: "usr/", Mode: 0o755},
				{Typeflag: tar.TypeDir, Name: "usr/share/", Mode: 0o755},
				{Typeflag: tar.TypeReg, Name: "usr/share/.wh.doc", Mode: 0o644},
				{Typeflag: tar.TypeDir, Name: "usr/share/info/", Mode: 0o700, Uid: 5},
				{Typeflag: tar.TypeReg, Name: "usr/share/info/.wh..wh..opq", Mode: 0o644},
				{Typeflag: tar.TypeReg, Name: "usr/share/info/added", Mode: 0o600},
			} {
				if err := w.WriteHeader(&h); err != nil {
					return err
				}
			}
			return nil
		})
		l.image(d.tag, base, more)
		tags = append(tags, d.tag)
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	x.compare(tags)
}

// packed writes a directory as an archive, by tar(1): Go's package leaves out
// hard links and attributes.
func packed(w *tar.Writer, root string) error {
	cmd := exec.Command("tar", "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", root, "-c", ".")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if err == io.EOF {
			return cmd.Wait()
		}
		if err != nil {
			return err
		}
		h.PAXRecords = xattrsOnly(h.PAXRecords)
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

func xattrsOnly(records map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range records {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			kept[k] = v
		}
	}
	return kept
}
