package apply

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
)

// fullView lists everything that a process in a container can see of a chain:
// names, types, modes, owners, times to the nanosecond, attributes, sizes,
// contents, targets, devices, and which names are one file.
func fullView(t testing.TB, s *overlay.Store, c overlay.ChainID) []string {
	t.Helper()
	fd, err := s.MountView(c)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	top := fmt.Sprintf("/proc/self/fd/%d", fd)
	type file struct{ dev, ino uint64 }
	groups := map[file]string{}
	var lines []string
	var walk func(path string)
	walk = func(path string) {
		full := top + path
		if path == "" {
			full += "/."
		}
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", path, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		buf := make([]byte, 1<<17)
		n, err := unix.Llistxattr(full, buf)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		if n > 0 {
			names = strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
		}
		sort.Strings(names)
		for _, name := range names {
			if strings.HasPrefix(name, "trusted.overlay.") {
				continue // of a single extracted layer, which is shown as it is
			}
			value := make([]byte, 1<<16)
			n, err := unix.Lgetxattr(full, name, value)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %s=%x", name, value[:n])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(full)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %d %x", st.Size, b)
		case unix.S_IFLNK:
			target, err := os.Readlink(full)
			if err != nil {
				t.Fatal(err)
			}
			line += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			// The number of links is not compared: overlayfs counts names of a
			// lower layer that an upper one hides.
			f := file{st.Dev, st.Ino}
			if first, ok := groups[f]; ok {
				line += " = " + first
			} else {
				groups[f] = path
			}
		}
		lines = append(lines, line)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			list, err := os.ReadDir(full)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				walk(path + "/" + e.Name())
			}
		}
	}
	walk("")
	return lines
}

// rich gives the entries of a generated layer what the generator of the model
// does not know: attributes, odd modes, devices, sparse files, times, markers.
// Files that layers above may link to keep one name.
func rich(t testing.TB, r *rand.Rand, ents []ent) []byte {
	var b []byte
	for i, e := range ents {
		e.ModTime = time.Unix(r.Int64N(1<<33+1<<30)-1<<30, int64(r.IntN(1e9)))
		e.Uid, e.Gid = r.IntN(1<<32-1), r.IntN(70000)
		_, base := cut(e.Name)
		marker := strings.HasPrefix(base, whPrefix)
		switch {
		case marker:
		case e.Typeflag == tar.TypeReg:
			switch r.IntN(8) {
			case 0:
				e.Typeflag, e.body = []byte{tar.TypeChar, tar.TypeBlock}[r.IntN(2)], ""
				e.Devmajor, e.Devminor = 1+int64(r.IntN(1<<12-1)), int64(r.IntN(1<<20))
			case 1:
				e.Typeflag, e.body = tar.TypeFifo, ""
			case 2:
				e.body = strings.Repeat(e.body, 1+r.IntN(400))
			case 3:
				e.body = ""
			}
			e.Mode = int64(r.IntN(0o10000))
		case e.Typeflag == tar.TypeDir:
			e.Mode = 0o700 | int64(r.IntN(0o10000))
		}
		if !marker && (e.Typeflag == tar.TypeReg || e.Typeflag == tar.TypeDir) {
			var kv []string
			for _, x := range []struct{ name, value string }{
				{"user.one", strings.Repeat("v", r.IntN(200))},
				{"user.two\xff", "\x00binary\x00"},
				{"security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
				{"system.posix_acl_access", aclValue(7, uint16(r.IntN(8)), 4, true)},
				{"system.posix_acl_default", aclValue(6, 5, 4, r.IntN(2) == 0)},
				{"trusted.left.out", "x"},
			} {
				if r.IntN(5) == 0 && (x.name != "system.posix_acl_default" || e.Typeflag == tar.TypeDir) {
					kv = append(kv, "LIBARCHIVE.xattr."+escape(x.name), base64Of(x.value))
				}
			}
			e = e.pax(kv...)
		}
		one := archive(t, e)
		if e.Typeflag == tar.TypeReg && !marker && r.IntN(10) == 0 {
			one = append(sparseAt(e.Name, 1<<16+int64(i), "sparse data", 8192+int64(r.IntN(3))*100), rawEnd...)
		}
		b = append(b, one[:len(one)-len(rawEnd)]...)
	}
	return append(b, rawEnd...)
}

// TestRootIndexEqualsExtract unpacks random chains in both ways, into one store,
// and compares all that the kernel shows.
func TestRootIndexEqualsExtract(t *testing.T) {
	s := openStore(t)
	needIndex(t, s)
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 5))
		m := model{"": {mode: unix.S_IFDIR | 0o755}}
		var ids [3]overlay.ChainID
		seq := 0
		base := &Base{}
		layers := 1 + r.IntN(4)
		for layer := range layers {
			ents := generate(r, m, &seq)
			ents = slices.DeleteFunc(ents, func(e ent) bool {
				// Overlayfs breaks a link of three names when one is brought up,
				// so extracted layers have one file more then.
				return e.Typeflag == tar.TypeLink && layer > 0
			})
			ents = append(ents, file(fmt.Sprintf("seed%d", seed), fmt.Sprint(layer)))
			m.apply(ents)
			b := rich(t, r, ents)
			largeFrom := []int64{-1, 1, 10}[r.IntN(3)] // of some layers files are apart from the archive
			for _, kind := range []Kind{Extract, Index} {
				opts := Options{Kind: kind, Base: base, Inner: layer < layers-1, largeFrom: largeFrom}
				id, _, err := Layer(t.Context(), s, ids[kind], digest(b), bytes.NewReader(b), opts)
				if err != nil {
					t.Fatalf("seed %d, layer %d, %s: %v", seed, layer, kind, err)
				}
				ids[kind] = id
			}
		}
		if ids[Extract] != ids[Index] {
			t.Fatalf("chain %s and %s", ids[Extract], ids[Index])
		}
		c := ids[Index]
		indexed := fullView(t, s, c)
		// A store that has both takes the image; without it, the directories.
		image := filepath.Join(s.Root(), overlay.Indexed.Dir(c), "image")
		if err := os.Rename(image, image+".gone"); err != nil {
			t.Fatal(err)
		}
		extracted := fullView(t, s, c)
		for i := range max(len(indexed), len(extracted)) {
			if i >= len(indexed) || i >= len(extracted) || indexed[i] != extracted[i] {
				t.Fatalf("seed %d, line %d:\nindex   %.400s\nextract %.400s", seed, i, lineOf(indexed, i), lineOf(extracted, i))
			}
		}
	}
}

// aclValue is an access control list with these permissions of owner, group and
// others; named adds a user and a mask.
func aclValue(user, group, other uint16, named bool) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag, perm uint16, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	add(aclUserObj, user, 1<<32-1)
	if named {
		add(aclUser, 6, 1000)
	}
	add(aclGroupObj, group, 1<<32-1)
	if named {
		add(aclMask, 5, 1<<32-1)
	}
	add(aclOther, other, 1<<32-1)
	return string(b)
}

func escape(s string) string   { return url.PathEscape(s) }
func base64Of(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) }

func lineOf(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(no more)"
}
