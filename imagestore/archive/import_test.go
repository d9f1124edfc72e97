package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

func importBytes(s *imagestore.Store, b []byte, o archive.ImportOptions) (*archive.Result, error) {
	o.Stdin = bytes.NewReader(b)
	return archive.Import(context.Background(), s, "-", "test/imported", o)
}

func TestImport_Tar(t *testing.T) {
	plain := imagetest.Files(t, "a", random("a", 5000), "b", "b")
	for _, f := range formats {
		t.Run(f.String(), func(t *testing.T) {
			s := newStore(t)
			body := imagetest.Compress(t, f, plain)
			res, err := importBytes(s, body, archive.ImportOptions{
				Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Message: "why",
				Changes: []string{`CMD ["/bin/sh", "-c", "a,b"]`, "ENV A=b"},
			})
			if err != nil {
				t.Fatal(err)
			}
			img, err := s.Resolve("test/imported")
			if err != nil {
				t.Fatal(err)
			}
			if img.Name != res.Images[0].Name || img.ConfigDigest != res.Images[0].ID {
				t.Errorf("result %+v, image %+v", res, img)
			}
			// The archive is kept byte for byte.
			got, err := s.ReadBlob("layer", img.Layers[0], 1<<20)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("layer differs from the archive: %v", err)
			}
			if img.DiffIDs[0] != imagestore.FromBytes(plain) {
				t.Errorf("diff ID %s, want %s", img.DiffIDs[0], imagestore.FromBytes(plain))
			}
			c := img.Config
			if !reflect.DeepEqual(c.Config.Cmd, []string{"/bin/sh", "-c", "a,b"}) || !reflect.DeepEqual(c.Config.Env, []string{archive.DefaultPath, "A=b"}) ||
				c.Created != "2026-01-02T03:04:05Z" || c.History[0].Comment != "why" {
				t.Errorf("config %+v", c)
			}
			if err := s.Verify(context.Background(), "test/imported"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestImport_NoCommandUnlessGiven(t *testing.T) {
	s := newStore(t)
	if _, err := importBytes(s, imagetest.Files(t, "a", "a"), archive.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("test/imported")
	if err != nil {
		t.Fatal(err)
	}
	if c := img.Config.Config; c.Cmd != nil || c.Entrypoint != nil || img.Config.Created != "" {
		t.Errorf("config %+v", img.Config)
	}
}

func TestImport_Refuses(t *testing.T) {
	plain := imagetest.Files(t, "a", random("a", 5000))
	gz := imagetest.Compress(t, decompress.Gzip, plain)
	flipped := bytes.Clone(gz)
	flipped[len(gz)/2] ^= 1
	tests := []struct {
		name string
		in   []byte
		o    archive.ImportOptions
		want string
	}{
		{"empty", nil, archive.ImportOptions{}, "empty"},
		{"no tar", []byte(strings.Repeat("no tar ", 200)), archive.ImportOptions{}, "no tar archive"},
		{"short", []byte("x"), archive.ImportOptions{}, "no tar archive"},
		{"cut", plain[:3000], archive.ImportOptions{}, "cut off"},
		{"gzip cut", gz[:len(gz)-9], archive.ImportOptions{}, "unexpected EOF"},
		{"gzip flipped", flipped, archive.ImportOptions{}, "gzip"},
		{"bzip2", []byte("BZh91AY&SY"), archive.ImportOptions{}, "bzip2"},
		{"change", plain, archive.ImportOptions{Changes: []string{"RUN rm -rf /"}}, "RUN"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			if _, err := importBytes(s, plain, archive.ImportOptions{}); err != nil {
				t.Fatal(err)
			}
			before := imagetest.Dump(t, s.Root())
			_, err := importBytes(s, tt.in, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Import = %v, want an error with %q", err, tt.want)
			}
			if after := imagetest.Dump(t, s.Root()); after != before {
				t.Errorf("store changed:\n%s\nwas:\n%s", after, before)
			}
		})
	}
	if _, err := archive.Import(context.Background(), newStore(t), "-", "Bad Name", archive.ImportOptions{Stdin: bytes.NewReader(plain)}); err == nil {
		t.Error("a bad name was accepted")
	}
}

// describe lists a tar archive as text.
func describe(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %s %04o %s%s", h.Typeflag, h.Name, h.Mode, h.Linkname, body)
		var keys []string
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				keys = append(keys, k[len("SCHILY.xattr."):]+"="+h.PAXRecords[k])
			}
		}
		sort.Strings(keys)
		if h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
			t.Errorf("%s depends on the host: %+v", h.Name, h)
		}
		if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			line += fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		}
		if h.Uid != os.Getuid() || h.Gid != os.Getgid() {
			line += fmt.Sprintf(" owner %d:%d", h.Uid, h.Gid)
		}
		out = append(out, strings.TrimSpace(line+" "+strings.Join(keys, " ")))
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tree makes a small root file system; order says in which order names are created.
func tree(t *testing.T, reverse bool) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "r")
	p := func(s string) string { return filepath.Join(root, s) }
	must(t, os.Mkdir(root, 0o755), os.Chmod(root, 0o711))
	steps := []func(){
		func() { must(t, os.WriteFile(p("z"), []byte("zz"), 0o600)) },
		func() { must(t, os.MkdirAll(p("bin"), 0o755), os.WriteFile(p("bin/su"), []byte("su"), 0o755)) },
		func() { must(t, os.Symlink("../etc/passwd", p("link"))) },
		func() { must(t, unix.Mkfifo(p("fifo"), 0o640)) },
		func() { must(t, os.MkdirAll(p("empty"), 0o700)) },
		func() { must(t, os.WriteFile(p("a b\n"), []byte("newline"), 0o644)) },
	}
	for i := range steps {
		if reverse {
			steps[len(steps)-1-i]()
		} else {
			steps[i]()
		}
	}
	must(t, os.Link(p("bin/su"), p("hard")), os.Chmod(p("bin/su"), 0o4755|os.ModeSetuid),
		unix.Setxattr(p("bin/su"), "user.note", []byte("x\x00y"), 0))
	l, err := net.Listen("unix", p("socket"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	for _, name := range []string{"z", "bin/su", "bin", "empty", "a b\n", "fifo", ""} {
		must(t, os.Chtimes(p(name), time.Unix(5, 0), time.Unix(1e9, 123456789)))
	}
	must(t, unix.Lutimes(p("link"), []unix.Timeval{{Sec: 1}, {Sec: 2}}))
	return root
}

func importedLayer(t *testing.T, s *imagestore.Store, name string) []byte {
	t.Helper()
	img, err := s.Resolve(name)
	must(t, err)
	b, err := s.ReadBlob("layer", img.Layers[0], 1<<26)
	must(t, err)
	return b
}

func TestImport_Directory(t *testing.T) {
	s := newStore(t)
	res, err := archive.Import(context.Background(), s, tree(t, false), "one", archive.ImportOptions{})
	must(t, err)
	if len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "socket") {
		t.Errorf("warnings %q, want one about the socket", res.Warnings)
	}
	one := importedLayer(t, s, "one")
	want := []string{
		"5 ./ 0711",
		"0 a b\n 0644 newline",
		"5 bin/ 0755",
		"0 bin/su 4755 su user.note=x\x00y",
		"5 empty/ 0700",
		"6 fifo 0640",
		"1 hard 4755 bin/su",
		"2 link 0777 ../etc/passwd",
		"0 z 0600 zz",
	}
	if got := describe(t, one); !reflect.DeepEqual(got, want) {
		t.Errorf("archive\n%q\nwant\n%q", got, want)
	}
	// The same tree, made in another order at another time, gives the same bytes.
	time.Sleep(10 * time.Millisecond)
	_, err = archive.Import(context.Background(), s, tree(t, true), "two", archive.ImportOptions{})
	must(t, err)
	if !bytes.Equal(one, importedLayer(t, s, "two")) {
		t.Errorf("not deterministic:\n%q\n%q", describe(t, one), describe(t, importedLayer(t, s, "two")))
	}
	r := tar.NewReader(bytes.NewReader(one))
	h, err := r.Next()
	must(t, err)
	if !h.ModTime.Equal(time.Unix(1e9, 123456789)) {
		t.Errorf("modification time %v", h.ModTime)
	}
}

func TestImport_DirectoryRefusesWhiteout(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, ".wh.x"), nil, 0o600))
	s := newStore(t)
	_, err := archive.Import(context.Background(), s, dir, "x", archive.ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), ".wh.") {
		t.Errorf("Import = %v, want an error about .wh.", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestImport_DirectoryTooDeep(t *testing.T) {
	dir := t.TempDir()
	at := dir
	for range 300 {
		at = filepath.Join(at, "d")
		must(t, os.Mkdir(at, 0o755))
	}
	_, err := archive.Import(context.Background(), newStore(t), dir, "x", archive.ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("Import = %v, want an error about depth", err)
	}
}

// A tree that is changed while it is read: what is outside never gets in.
func TestImport_DirectoryRace(t *testing.T) {
	base := t.TempDir()
	secret, dir := filepath.Join(base, "secret"), filepath.Join(base, "root")
	must(t, os.MkdirAll(secret, 0o700), os.WriteFile(filepath.Join(secret, "f"), []byte("SECRET"), 0o600),
		os.MkdirAll(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "a", "f"), []byte("public"), 0o644))
	stop, done := make(chan struct{}), make(chan struct{})
	must(t, os.Symlink(secret, filepath.Join(base, "link")))
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(base, "link"), unix.RENAME_EXCHANGE)
		}
	}()
	s := newStore(t)
	for range 60 {
		_, err := archive.Import(context.Background(), s, dir, "x", archive.ImportOptions{})
		if err != nil {
			continue
		}
		if bytes.Contains(importedLayer(t, s, "x"), []byte("SECRET")) {
			t.Error("a file outside of the directory was imported")
			break
		}
	}
	close(stop)
	<-done
}

func TestRootImport_DevicesOwnersCapabilities(t *testing.T) {
	dir := t.TempDir()
	p := func(s string) string { return filepath.Join(dir, s) }
	must(t, os.Chmod(dir, 0o755),
		unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(p("sda"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 0))),
		os.WriteFile(p("ping"), []byte("p"), 0o755),
		os.Lchown(p("ping"), 1000, 70000),
		// VFS_CAP_REVISION_2, CAP_NET_RAW permitted and effective.
		unix.Setxattr(p("ping"), "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0),
		unix.Setxattr(p("ping"), "trusted.overlay.redirect", []byte("/x"), 0),
		os.Chmod(p("null"), 0o666))
	s := newStore(t)
	_, err := archive.Import(context.Background(), s, dir, "x", archive.ImportOptions{})
	must(t, err)
	want := []string{
		"5 ./ 0755",
		"3 null 0666 1:3",
		"0 ping 0755 p owner 1000:70000 security.capability=\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"4 sda 0640 8:0",
	}
	if got := describe(t, importedLayer(t, s, "x")); !reflect.DeepEqual(got, want) {
		t.Errorf("archive\n%q\nwant\n%q", got, want)
	}
	must(t, unix.Mknod(p("gone"), unix.S_IFCHR, 0))
	if _, err := archive.Import(context.Background(), s, dir, "y", archive.ImportOptions{}); err == nil {
		t.Error("a whiteout device was imported")
	}
}

// A store on a full disk: one clear error, nothing left, and with more space it works.
func TestRootLoad_DiskFull(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	s := openStore(t, filepath.Join(dir, "store"))
	small := build(t, "small", decompress.None)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, small))); err != nil {
		t.Fatal(err)
	}
	before := imagetest.Dump(t, s.Root())
	var fs0, fs1 unix.Statfs_t
	must(t, unix.Statfs(dir, &fs0))
	big := imagetest.Build(t, imagetest.Image{Names: []string{"big"}, Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "a", random("a", 150000))}, {Tar: imagetest.Files(t, "b", random("b", 150000))}}})
	whole := imagetest.Archive(t, imagetest.DockerArchive(t, big))
	layer := imagetest.Files(t, "x", random("x", 300000))
	attempts := map[string]func() error{
		"load":   func() error { _, err := loadBytes(s, whole); return err },
		"import": func() error { _, err := importBytes(s, layer, archive.ImportOptions{}); return err },
	}
	for name, f := range attempts {
		if err := f(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v, want ENOSPC", name, err)
		}
		if after := imagetest.Dump(t, s.Root()); after != before {
			t.Errorf("%s: store changed:\n%s\nwas:\n%s", name, after, before)
		}
	}
	must(t, unix.Statfs(dir, &fs1))
	if fs0.Bfree != fs1.Bfree {
		t.Errorf("%d blocks free, were %d", fs1.Bfree, fs0.Bfree)
	}
	// Full at every block: fill up, then try with a little more each time.
	filler := filepath.Join(dir, "filler")
	ok := false
	for free := int64(0); free < 80<<10 && !ok; free += 4 << 10 {
		must(t, unix.Statfs(dir, &fs1))
		must(t, os.WriteFile(filler, make([]byte, int64(fs1.Bfree)*fs1.Bsize-free), 0o600))
		_, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, build(t, "small2", decompress.None))))
		must(t, os.Remove(filler))
		if err == nil {
			ok = true
			break
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%d bytes free: %v, want ENOSPC", free, err)
		}
		if after := imagetest.Dump(t, s.Root()); after != before {
			t.Fatalf("%d bytes free: store changed:\n%s\nwas:\n%s", free, after, before)
		}
	}
	if !ok {
		t.Error("it never worked")
	}
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=4m"))
	if _, err := loadBytes(s, whole); err != nil {
		t.Fatal(err)
	}
	check(t, s, "big", big)
}

func TestChange(t *testing.T) {
	var c imagestore.ImageConfig
	err := archive.Change(&c, `CMD ["a", "b c"]`, `entrypoint exec "$0"`, `ENV A=1`, `ENV B two words`, `ENV A="3"`, `LABEL x=y`, `USER 1:2`, `WORKDIR /w`,
		`STOPSIGNAL SIGINT`, `EXPOSE 80 53/UDP 8000-8002/sctp`, `VOLUME ["/v 1"]`, `VOLUME /v2`)
	must(t, err)
	want := imagestore.ImageConfig{
		Cmd: []string{"a", "b c"}, Entrypoint: []string{"/bin/sh", "-c", `exec "$0"`}, Env: []string{"B=two words", "A=3"}, Labels: map[string]string{"x": "y"},
		User: "1:2", WorkingDir: "/w", StopSignal: "SIGINT", ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}, "8000-8002/sctp": {}}, Volumes: map[string]struct{}{"/v 1": {}, "/v2": {}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{`ENV A=1 B=2	C=`, []string{"A=1", "B=2", "C="}},
		{`ENV A="b c" B='d "e" \f' C=g\ h`, []string{"A=b c", `B=d "e" \f`, "C=g h"}},
		{`ENV A="x\"y\z" B=pre"mid dle"post`, []string{`A=x"y\z`, "B=premid dlepost"}},
		{`ENV A b=c d`, []string{"A=b=c d"}},
		{`ENV A=b=c`, []string{"A=b=c"}},
	} {
		var c imagestore.ImageConfig
		if err := archive.Change(&c, tt.in); err != nil || !slices.Equal(c.Env, tt.want) {
			t.Errorf("%s: %q, %v; want %q", tt.in, c.Env, err, tt.want)
		}
	}
	for _, bad := range []string{
		"", "CMD", "ENV A", "ENV =x", "ENV A=b two", "ENV A=b =c", `ENV A="b`, "LABEL a", "WORKDIR w", "ADD a b",
		"EXPOSE foo", "EXPOSE 0", "EXPOSE 65536", "EXPOSE 80/", "EXPOSE 80/icmp", "EXPOSE 81-80", "EXPOSE 80-", "EXPOSE 80 -1", "EXPOSE 80:80",
	} {
		var ce *archive.ChangeError
		if err := archive.Change(&c, bad); !errors.As(err, &ce) {
			t.Errorf("Change(%q) = %v, want a ChangeError", bad, err)
		}
	}
}
