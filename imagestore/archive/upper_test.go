package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// upperTar is the archive of a directory as the upper one of a container.
func upperTar(t *testing.T, dir string) ([]byte, error) {
	t.Helper()
	var b bytes.Buffer
	w := &dirWriter{ctx: context.Background(), tw: tar.NewWriter(&b), raw: &b, upper: true}
	if err := w.write(dir); err != nil {
		return nil, err
	}
	return b.Bytes(), w.tw.Close()
}

// A file with holes comes out of archive/tar as it went in, whatever its name,
// owner, time and attributes need.
func TestSparse(t *testing.T) {
	dir := t.TempDir()
	mtime := time.Unix(1_000_000_000, 123456789)
	content := map[string][]byte{}
	long := strings.Repeat("n", 200) + "ü\n="
	for name, at := range map[string][]int64{
		"start": {0}, "middle": {1 << 20}, "several": {0, 300 << 10, 2 << 20}, "end": {4<<20 - 5}, "none": {}, long: {700 << 10},
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4<<20)
		for _, off := range at {
			piece := fmt.Appendf(nil, "%05d", off%99999)
			if _, err := f.WriteAt(piece, off); err != nil {
				t.Fatal(err)
			}
			copy(b[off:], piece)
		}
		if err := f.Truncate(int64(len(b))); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := os.Chtimes(f.Name(), mtime, mtime); err != nil {
			t.Fatal(err)
		}
		content["./"[2:]+name] = b
	}
	plain := filepath.Join(dir, "zz plain") // what follows a sparse file is where it should be
	if err := os.WriteFile(plain, []byte("plain"), 0o640); err != nil {
		t.Fatal(err)
	}
	content["zz plain"] = []byte("plain")

	raw, err := upperTar(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 1<<20 {
		t.Errorf("the archive has %d bytes", len(raw))
	}
	again, err := upperTar(t, dir)
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("the archive is another one the second time (%v)", err)
	}
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		got, err := io.ReadAll(tr)
		want, ok := content[h.Name]
		if err != nil || !ok || !bytes.Equal(got, want) || h.Size != int64(len(want)) {
			t.Errorf("%q: %d bytes of %d (%v), want %d", h.Name, len(got), h.Size, err, len(want))
		}
		if len(want) > 100 && !h.ModTime.Equal(mtime) {
			t.Errorf("%q: time %v, want %v", h.Name, h.ModTime, mtime)
		}
		delete(content, h.Name)
	}
	for name := range content {
		t.Errorf("%q is missing", name)
	}
}

// A file in more pieces than the map has room for: the smallest holes become
// zeros, whatever they are among, and that is all that grows.
func TestSparseManyPieces(t *testing.T) {
	const piece, small, large = 4096, 4096, 8192
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(0)
	for i := range maxSegments + 500 {
		if _, err := f.WriteAt([]byte{byte(i), 1}, at); err != nil {
			t.Fatal(err)
		}
		if at += piece + large; i%10 == 3 {
			at += small - large
		}
	}
	if err := f.Truncate(at); err != nil {
		t.Fatal(err)
	}
	list, filled, err := segments(context.Background(), int(f.Fd()), at)
	if err != nil || len(list) > maxSegments {
		t.Fatalf("%d pieces, %v", len(list), err)
	}
	if want := int64(500 * small); filled != want {
		t.Errorf("%d bytes of holes became data, want %d", filled, want)
	}
	raw, err := upperTar(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if most := (maxSegments+1000)*piece + 1<<20; len(raw) > most {
		t.Errorf("the archive has %d bytes, want at most %d", len(raw), most)
	}
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "f" {
			break
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, want := sha256.New(), sha256.New()
	if _, err := io.Copy(got, r); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(want, f); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("archive/tar reads another file")
	}
}

// What a container can make in a second must not be terabytes in an archive.
func TestSparseTooManyHoles(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 2 * int64(maxSegments) {
		if _, err := f.WriteAt([]byte{1}, i*(16<<20)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := upperTar(t, dir)
	var holes *HolesError
	if !errors.As(err, &holes) || holes.Name != "f" {
		t.Errorf("%d bytes, %v, want a *HolesError", len(raw), err)
	}
}

func TestJoined(t *testing.T) {
	for _, tt := range []struct {
		list, want string
		most       int
		filled     int64
	}{
		{"0+1 5+1 8+1", "[{0 1} {5 1} {8 1}]", 3, 0},
		{"0+1 5+1 8+1", "[{0 1} {5 4}]", 2, 2},
		{"0+1 5+1 8+1", "[{0 9}]", 1, 6},
		{"0+1 2+1 4+1 6+1", "[{0 5} {6 1}]", 2, 2}, // of equal ones the first go
		{"0+1 9+1 11+1 20+1 22+1", "[{0 1} {9 3} {20 3}]", 3, 2},
	} {
		var list []segment
		for _, f := range strings.Fields(tt.list) {
			var s segment
			if _, err := fmt.Sscanf(f, "%d+%d", &s.off, &s.n); err != nil {
				t.Fatal(err)
			}
			list = append(list, s)
		}
		got, filled := joined(list, tt.most)
		if fmt.Sprint(got) != tt.want || filled != tt.filled {
			t.Errorf("%s, at most %d: %v and %d filled, want %s and %d", tt.list, tt.most, got, filled, tt.want, tt.filled)
		}
	}
}

// Numbers that the old header has no room for are in the PAX header.
func TestSparseHeader(t *testing.T) {
	var b bytes.Buffer
	w := &dirWriter{tw: tar.NewWriter(&b), raw: &b}
	h := &tar.Header{Name: strings.Repeat("a/", 100) + "f", Uid: 1 << 30, Gid: 1<<31 + 5, Mode: 0o4755, Size: 512, ModTime: time.Unix(-3, 500000000), Typeflag: tar.TypeReg}
	if err := w.sparseHeader(h, 1<<40, map[string]string{"user.a": "v\x00=\n"}); err != nil {
		t.Fatal(err)
	}
	b.WriteString("1\n1099511627776\n0\n" + strings.Repeat("\x00", 512-18))
	b.Write(make([]byte, 1024))
	got, err := tar.NewReader(bytes.NewReader(b.Bytes())).Next()
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != h.Name || got.Uid != h.Uid || got.Gid != h.Gid || got.Mode != h.Mode || got.Size != 1<<40 || !got.ModTime.Equal(h.ModTime) ||
		got.PAXRecords["SCHILY.xattr.user.a"] != "v\x00=\n" {
		t.Errorf("got %+v", got)
	}
	if err := w.sparseHeader(h, 1, map[string]string{"user.a=b": "v"}); err == nil {
		t.Error("a name with = in it is accepted")
	}
}

func TestPAXRecord(t *testing.T) {
	for n := range 2000 {
		r := paxRecord("k", strings.Repeat("v", n))
		var length int
		if _, err := fmt.Sscanf(r, "%d ", &length); err != nil || length != len(r) {
			t.Fatalf("a value of %d bytes: %q has %d", n, r[:10], len(r))
		}
	}
}

func TestPAXTime(t *testing.T) {
	for want, tm := range map[string]time.Time{
		"0": time.Unix(0, 0), "5": time.Unix(5, 0), "-5": time.Unix(-5, 0), "1.5": time.Unix(1, 5e8), "-1.5": time.Unix(-2, 5e8), "-0.5": time.Unix(-1, 5e8),
		"1.000000001": time.Unix(1, 1),
	} {
		if got := paxTime(tm); got != want {
			t.Errorf("%v: %s, want %s", tm, got, want)
		}
	}
}
