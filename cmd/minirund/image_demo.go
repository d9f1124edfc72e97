package main

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/internal/demo"
	"github.com/urfave/cli/v2"
)

// demoName is the image that needs no network: minirun itself with its applets.
const demoName = "minirun/demo"

func imageDemoCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "demo",
		Usage: "make the image " + demoName + " from minirun's own binary",
		Flags: arrivalFlags(
			&cli.StringFlag{Name: "binary", Usage: "use the minirun at `PATH` and not the one beside this program", TakesFile: true},
		),
	}, 0, 0, func(c *cli.Context) error {
		binary := c.String("binary")
		if binary == "" {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			binary = filepath.Join(filepath.Dir(self), "minirun")
		}
		if err := checkBinary(binary); err != nil {
			return err
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		res, err := archive.ImportFunc(c.Context, images, demoName, archive.ImportOptions{
			Message: "minirun and its applets",
			Config: imagestore.ImageConfig{
				Cmd:        []string{"/bin/hello"},
				WorkingDir: "/",
				Labels: map[string]string{
					"org.opencontainers.image.title":       demoName,
					"org.opencontainers.image.description": "applets inside minirun's own binary, for first steps and tests",
				},
			},
		}, func(w *tar.Writer) error { return writeDemo(w, binary) })
		if err != nil {
			return err
		}
		return arrived(c, u, images, "made", res, newProgress(u, c.Bool("quiet")))
	})
}

// checkBinary refuses a file that could not start in an image that holds
// nothing else: one for another processor, or one that needs a loader.
func checkBinary(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) {
			return fmt.Errorf("binary %q: it is no ELF program", path)
		}
		if errors.Is(err, os.ErrNotExist) {
			return &hinted{fmt.Errorf("binary %q: %w", path, errors.Unwrap(err)), "name a minirun with --binary"}
		}
		return fmt.Errorf("binary %q: %w", path, err)
	}
	defer f.Close()
	want := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		want = elf.EM_AARCH64
	}
	if f.Machine != want {
		return fmt.Errorf("binary %q: it is for %s, this host is %s", path, f.Machine, runtime.GOARCH)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return &hinted{fmt.Errorf("binary %q: it is linked dynamically", path), "build it with CGO_ENABLED=0"}
		}
	}
	return nil
}

// writeDemo writes the layer. It depends on the binary alone: no times, no
// owners but root, so the same binary gives the same image.
func writeDemo(w *tar.Writer, binary string) error {
	f, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	entry := func(h tar.Header, content string) error {
		h.Format = tar.FormatUSTAR
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
	dirs := []tar.Header{
		{Name: "./", Mode: 0o755},
		{Name: "bin/", Mode: 0o755},
		{Name: "dev/", Mode: 0o755},
		{Name: "etc/", Mode: 0o755},
		{Name: "proc/", Mode: 0o555},
		{Name: "root/", Mode: 0o700},
		{Name: "run/", Mode: 0o755},
		{Name: "sys/", Mode: 0o555},
		{Name: "tmp/", Mode: 0o1777},
	}
	for _, h := range dirs {
		h.Typeflag = tar.TypeDir
		if err := entry(h, ""); err != nil {
			return err
		}
	}
	if err := entry(tar.Header{Typeflag: tar.TypeReg, Name: "minirun", Mode: 0o755, Size: st.Size()}, ""); err != nil {
		return err
	}
	if n, err := io.Copy(w, io.LimitReader(f, st.Size())); err != nil {
		return err
	} else if n != st.Size() {
		return fmt.Errorf("%q changed while it was read", binary)
	}
	for _, name := range demo.Applets() {
		if err := entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "/minirun", Mode: 0o777}, ""); err != nil {
			return err
		}
	}
	files := []struct{ name, content string }{
		{"etc/group", "root:x:0:\nnogroup:x:65534:\n"},
		{"etc/passwd", "root:x:0:0:root:/root:/bin/hello\nnobody:x:65534:65534:nobody:/:/bin/hello\n"},
	}
	for _, file := range files {
		if err := entry(tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: 0o644}, file.content); err != nil {
			return err
		}
	}
	return nil
}
