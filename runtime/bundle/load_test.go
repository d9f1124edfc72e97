package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, content string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLoad(t *testing.T) {
	const raw = `{"ociVersion":"1.0.2-dev","root":{"path":"rootfs"}}`
	dir := write(t, raw)
	t.Chdir(filepath.Dir(dir))
	for _, name := range []string{dir, filepath.Base(dir), "./" + filepath.Base(dir) + "/"} {
		b, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if b.Dir != dir || string(b.Raw) != raw || b.Spec.Root.Path != "rootfs" {
			t.Errorf("Load(%q): %+v, want dir %s", name, b, dir)
		}
	}
	t.Chdir(dir)
	if b, err := Load(""); err != nil || b.Dir != dir {
		t.Errorf("Load of the working directory: %+v, %v", b, err)
	}
}

func TestLoad_Missing(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir)
	var missing *MissingError
	if !errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want a *MissingError", err)
	}
	want := `open "` + dir + `/config.json": JSON specification file config.json not found: write one with minirun spec --bundle ` + dir
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestLoad_Size(t *testing.T) {
	fits := `{"ociVersion":"1.0.0"}`
	fits += strings.Repeat(" ", MaxConfigSize-len(fits))
	if _, err := Load(write(t, fits)); err != nil {
		t.Errorf("%d bytes: %v", len(fits), err)
	}
	if _, err := Load(write(t, fits+" ")); !errors.Is(err, unix.EFBIG) {
		t.Errorf("%d bytes: got %v, want EFBIG", len(fits)+1, err)
	}
}

func TestLoad_Wrong(t *testing.T) {
	dir := write(t, "{\n\t\"process\": {\n\t\t\"args\": \"sh\"\n")
	_, err := Load(dir)
	var field *FieldError
	if !errors.As(err, &field) || field.Path != "process.args" {
		t.Fatalf("got %v, want a *FieldError", err)
	}
	want := `bundle "` + dir + `": config.json:3:11: process.args: want an array, got a string`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}
