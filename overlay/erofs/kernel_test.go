package erofs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/kfeature"
	"github.com/minirun/minirun/internal/linux"
)

// needKernel skips where the kernel cannot mount images from files: such a
// machine has nothing to test. A file system that cannot hold them is an error.
func needKernel(t testing.TB, dir string) {
	t.Helper()
	err := kfeature.EROFSFileIn(dir)
	if missing, ok := err.(*kfeature.Error); ok {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mount mounts an image detached. Paths of devices are relative to dir.
func mount(t testing.TB, dir string, image []byte, data [][]byte) (int, error) {
	t.Helper()
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fs)
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := unix.FsconfigSetString(fs, "source", write("image", image)); err != nil {
		t.Fatal(err)
	}
	for i, d := range data {
		if err := unix.FsconfigSetString(fs, "device", write(fmt.Sprint(i), d)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
}

// seen lists what the kernel shows, in the form of describe.
func seen(t testing.TB, fd int) []string {
	var lines []string
	first := map[uint64]string{}
	var walk func(path string)
	top := fmt.Sprintf("/proc/self/fd/%d", fd)
	walk = func(path string) {
		var st unix.Stat_t
		full := top + path
		if path == "" {
			full += "/."
		}
		if err := unix.Lstat(full, &st); err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		in := &Inode{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}
		buf := make([]byte, 1<<17)
		if n, err := unix.Llistxattr(full, buf); err != nil {
			t.Fatal(err)
		} else if n > 0 {
			for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
				value := make([]byte, 1<<16)
				n, err := unix.Lgetxattr(full, name, value)
				if err != nil {
					t.Fatal(err)
				}
				in.Xattrs = append(in.Xattrs, Xattr{name, string(value[:n])})
			}
		}
		content := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			b := make([]byte, 5000)
			n, err := unix.Readlink(full, b)
			if err != nil {
				t.Fatal(err)
			}
			in.Target = string(b[:n])
		case unix.S_IFREG:
			b, err := os.ReadFile(full)
			if err != nil {
				t.Fatal(err)
			}
			in.Size = st.Size
			content = fmt.Sprintf(" %x", b)
		case unix.S_IFCHR, unix.S_IFBLK:
			in.Major, in.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d %d dev %d:%d -> %q %q", path, in.Mode, in.UID, in.GID, in.Sec, in.Nsec, in.Size, in.Major, in.Minor, in.Target, in.Xattrs) + content
		if other, ok := first[st.Ino]; ok {
			line += " = " + other
		}
		first[st.Ino] = path
		lines = append(lines, line)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			d, err := os.ReadDir(full)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range d { // sorted by ReadDir
				walk(path + "/" + e.Name())
			}
		}
	}
	walk("")
	return lines
}

// withoutXattrsOfSpecial: the kernel has no user.* on links and special files.
func withoutXattrsOfSpecial(in *Inode) {
	if ty := in.Mode & typeMask; ty != typeReg && ty != typeDir {
		in.Xattrs = nil
	}
	in.Mode = in.Mode&^0o7777&typeMask | in.Mode&0o7777
	for _, e := range in.Entries {
		withoutXattrsOfSpecial(e.Inode)
	}
}

func TestRootKernel(t *testing.T) {
	dir := t.TempDir()
	needKernel(t, dir)
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		root, data := randomTree(r, 1+r.IntN(400), 1+r.IntN(4), BlockSize)
		withoutXattrsOfSpecial(root)
		var embed []int
		if seed%4 == 0 {
			embed = []int{0}
		}
		var b bytes.Buffer
		if _, err := Write(&b, root, deviceList(data, embed...)); err != nil {
			t.Fatal(err)
		}
		want := describe(root, readBack(nil, data))
		fd, err := mount(t, dir, b.Bytes(), data[len(embed):])
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		compare(t, seen(t, fd), want)
		linux.Close(fd)
	}
}

// A directory of 120,000 names: every name is found, and none that is not there.
func TestRootKernel_HugeDirectory(t *testing.T) {
	dir := t.TempDir()
	needKernel(t, dir)
	const n = 120_000
	shared := reg(0, 0, 0)
	root := dirOf()
	for i := range n {
		in := shared // nearly all names are links of one file
		if i%1000 == 0 {
			in = reg(0, 0, 0)
		}
		root.Entries = append(root.Entries, Dirent{fmt.Sprintf("%x-name", i*7919), in})
	}
	sort.Slice(root.Entries, func(i, j int) bool { return root.Entries[i].Name < root.Entries[j].Name })
	var b bytes.Buffer
	if _, err := Write(&b, root, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(bytes.NewReader(b.Bytes()), int64(b.Len())); err != nil {
		t.Fatal(err)
	}
	fd, err := mount(t, dir, b.Bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	for i := 0; i < n; i += 37 {
		if err := unix.Fstatat(fd, fmt.Sprintf("%x-name", i*7919), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatalf("name %d: %v", i, err)
		}
		if i%1000 != 0 && st.Nlink != n-n/1000 {
			t.Fatalf("%d links, want %d", st.Nlink, n-n/1000)
		}
		if err := unix.Fstatat(fd, fmt.Sprintf("%x-nam", i), &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
			t.Fatalf("a name that is not there: %v", err)
		}
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || len(names) != n {
		t.Errorf("%d names, %v", len(names), err)
	}
}

// A file of more than 4 GiB, in a device that is a hole.
func TestRootKernel_LargeFile(t *testing.T) {
	dir := t.TempDir()
	needKernel(t, dir)
	const size = 5<<30 + 100
	var b bytes.Buffer
	if _, err := Write(&b, dirOf("big", reg(size, 0, 1<<20)), []Device{{Size: 1<<20 + size}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err = f.WriteAt([]byte("end"), 1<<20+size-3); err == nil {
		err = f.Truncate(alignUp(1<<20+size, BlockSize))
	}
	if err != nil {
		t.Fatal(err)
	}
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fs)
	if err := os.WriteFile(filepath.Join(dir, "image"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kv := range [][2]string{{"source", dir + "/image"}, {"device", dir + "/hole"}} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	got, err := os.Open(fmt.Sprintf("/proc/self/fd/%d/big", fd))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	tail := make([]byte, 5)
	if n, err := got.ReadAt(tail, size-5); n != 5 || string(tail) != "\x00\x00end" {
		t.Errorf("the end of the file is %q, %v", tail[:n], err)
	}
	if st, err := got.Stat(); err != nil || st.Size() != size {
		t.Errorf("size %v, %v", st, err)
	}
}

// FuzzWrite makes a tree of the input; the checker takes every image, and as root
// so does the kernel, and both see the tree. fsck.erofs takes one like it.
func FuzzWrite(f *testing.F) {
	f.Add(uint64(1), uint16(40), byte(1))
	f.Add(uint64(2), uint16(300), byte(3))
	f.Fuzz(func(t *testing.T, seed uint64, files uint16, devices byte) {
		fsck(t, rand.New(rand.NewPCG(seed, 5)), 1+int(files%2000), 1+int(devices%3))
		r := rand.New(rand.NewPCG(seed, 4))
		root, data := randomTree(r, 1+int(files%2000), 1+int(devices%8), BlockSize)
		withoutXattrsOfSpecial(root)
		var b bytes.Buffer
		n, err := Write(&b, root, deviceList(data))
		if err != nil {
			t.Fatal(err)
		}
		want := describe(root, readBack(nil, data))
		img, err := Check(bytes.NewReader(b.Bytes()), n)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(describe(img.Root, readBack(b.Bytes(), data)), want) {
			t.Fatal("the checker sees another tree")
		}
		if os.Geteuid() != 0 || kfeature.EROFSFileIn(t.TempDir()) != nil {
			return
		}
		fd, err := mount(t, t.TempDir(), b.Bytes(), data)
		if err != nil {
			t.Fatal(err)
		}
		defer linux.Close(fd)
		compare(t, seen(t, fd), want)
	})
}
