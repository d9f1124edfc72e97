package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tarSink writes an archive. Everything that could differ from one day or
// machine to the next is zero.
type tarSink struct {
	w    *tar.Writer
	dirs map[string]bool
}

func newTarSink(w io.Writer, _ []saved) *tarSink {
	return &tarSink{w: tar.NewWriter(w), dirs: map[string]bool{}}
}

func (t *tarSink) file(f saved, r io.Reader) error {
	if err := t.dir(path.Dir(f.name)); err != nil {
		return err
	}
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: f.size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := io.CopyBuffer(onlyWriter{t.w}, onlyReader{r}, make([]byte, chunk))
	return err
}

// dir writes a directory and those above it, each once.
func (t *tarSink) dir(name string) error {
	if name == "." || t.dirs[name] {
		return nil
	}
	t.dirs[name] = true
	if err := t.dir(path.Dir(name)); err != nil {
		return err
	}
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

func (t *tarSink) close(err error) error {
	if err != nil {
		return err
	}
	return t.w.Close()
}

// dirSink writes a directory beside the place where it is going to be.
type dirSink struct{ dir, temp string }

func newDirSink(dir string) (*dirSink, error) {
	dir = filepath.Clean(dir)
	switch names, err := os.ReadDir(dir); {
	case err == nil && len(names) > 0:
		return nil, fmt.Errorf("%q: %w", dir, unix.ENOTEMPTY)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".save-")
	if err == nil {
		err = os.Chmod(temp, 0o755)
	}
	return &dirSink{dir, temp}, err
}

func (d *dirSink) file(f saved, r io.Reader) error {
	name := filepath.Join(d.temp, f.name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{out}, onlyReader{r}, make([]byte, chunk))
	if err == nil {
		err = out.Sync()
	}
	if err2 := out.Close(); err == nil {
		err = err2
	}
	return err
}

func (d *dirSink) close(err error) error {
	if err == nil { // not os.Rename, which refuses to replace an empty directory
		if err = unix.Rename(d.temp, d.dir); err != nil {
			err = &os.LinkError{Op: "rename", Old: d.temp, New: d.dir, Err: err}
		}
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(d.temp))
	}
	return nil
}

// File is a file that appears when it is complete. It replaces what has its name.
type File struct {
	*os.File
	path   string
	direct bool // a device or a pipe: nothing to replace
}

// CreateFile begins a file at path.
func CreateFile(path string) (*File, error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return nil, &fs.PathError{Op: "write", Path: path, Err: unix.EISDIR}
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		return &File{f, path, true}, err
	}
	// Without a name until it is complete: nothing is left of it when we are killed.
	f, err := os.OpenFile(filepath.Dir(path), os.O_WRONLY|unix.O_TMPFILE, 0o644)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		f, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".save-")
		if err == nil {
			err = f.Chmod(0o644)
		}
	}
	if err != nil {
		return nil, err
	}
	return &File{f, path, false}, nil
}

// Finish gives the file its name, or drops it if err is not nil.
func (f *File) Finish(err error) error {
	temp := f.Name()
	unnamed := temp == filepath.Dir(f.path)
	if err == nil && !f.direct {
		err = f.Sync()
	}
	if err == nil && unnamed && !f.direct {
		temp = filepath.Join(filepath.Dir(f.path), fmt.Sprintf(".%s.save-%d", filepath.Base(f.path), os.Getpid()))
		_ = os.Remove(temp) // of a process that had our number and was killed
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW)
		unnamed = err != nil
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if f.direct {
		return err
	}
	if err == nil {
		err = os.Rename(temp, f.path)
	}
	if err != nil && !unnamed {
		_ = os.Remove(temp)
	}
	return err
}
