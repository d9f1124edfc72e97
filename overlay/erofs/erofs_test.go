package erofs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// randomTree makes a tree whose files have their data in devices of the given
// number, blocks of size bytes. It returns the tree and the devices' content.
func randomTree(r *rand.Rand, files, devices, size int) (*Inode, [][]byte) {
	data := make([][]byte, devices)
	for i := range data {
		data[i] = make([]byte, size) // one without size is no device
	}
	attrs := func(mode uint32) *Inode {
		in := &Inode{Mode: mode | r.Uint32N(0o10000), UID: r.Uint32N(1<<32 - 1), GID: r.Uint32N(3), Sec: r.Int64N(1<<33+1<<31) - 1<<31, Nsec: r.Uint32N(1e9)}
		for i := range r.IntN(3) * r.IntN(2) {
			in.Xattrs = append(in.Xattrs, Xattr{fmt.Sprintf("user.%d%s", i, strings.Repeat("n", r.IntN(100))), strings.Repeat("v", r.IntN(300))})
		}
		return in
	}
	root := attrs(typeDir)
	dirs := []*Inode{root}
	var others []*Inode
	for i := range files {
		var in *Inode
		switch k := r.IntN(10); {
		case k < 2:
			in = attrs(typeDir)
			dirs = append(dirs, in)
		case k == 2:
			in = attrs(typeLink | 0o777)
			in.Target = strings.Repeat("t", 1+r.IntN(100))
			if r.IntN(4) == 0 {
				in.Target = strings.Repeat("long/", 1+r.IntN(800))
			}
		case k == 3:
			in = attrs([]uint32{typeChr, typeBlk, typeFifo, typeSock}[r.IntN(4)])
			if in.Mode&typeMask == typeChr || in.Mode&typeMask == typeBlk {
				in.Major, in.Minor = r.Uint32N(1<<12), r.Uint32N(1<<20)
			}
		case k == 4 && len(others) > 0:
			in = others[r.IntN(len(others))]
		default:
			in = attrs(typeReg)
			in.Size = int64(r.IntN(3*size) * r.IntN(2))
			if r.IntN(4) == 0 { // some pages
				in.Size = int64(r.IntN(5 * pageSize))
			}
			in.Device = int32(r.IntN(devices))
			if in.Size > 0 && r.IntN(6) == 0 {
				in.Device, in.Redirect = 0, "/"+strings.Repeat("r", 1+r.IntN(maxPath-1))
			} else if in.Size > 0 {
				d := &data[in.Device]
				in.Offset = int64(len(*d))
				*d = append(*d, bytes.Repeat([]byte(fmt.Sprintf("%d.", i)), int(in.Size))[:in.Size]...)
				*d = append(*d, make([]byte, alignUp(in.Size, int64(size))-in.Size)...)
				if r.IntN(4) == 0 { // sparse, and long enough for a hole
					hole := alignUp(in.Size, 4096) + 8192
					*d = append(*d, make([]byte, in.Offset+hole-int64(len(*d)))...)
					in.Chunks = make([]byte, (chunksOf(hole, ChunkBits(hole))+7)/8)
					for c := range alignUp(in.Size, 4096) / 4096 {
						in.Chunks[c/8] |= 1 << (c % 8)
					}
					in.Size = hole
				}
			} else {
				in.Device = 0
			}
		}
		if in.Mode&typeMask != typeDir {
			others = append(others, in)
		}
		name := fmt.Sprintf("%d%s", i, strings.Repeat("x", r.IntN(40)))
		if r.IntN(10) == 0 {
			name = []string{"!", "-", ".", "...", "..x", ".hidden", "\xff\xfe", "a\nb", "ü"}[r.IntN(9)] + name
		}
		d := dirs[r.IntN(len(dirs))]
		if in.Mode&typeMask == typeDir {
			d = dirs[r.IntN(len(dirs)-1)]
		}
		d.Entries = append(d.Entries, Dirent{name, in})
	}
	for _, d := range dirs {
		sort.Slice(d.Entries, func(i, j int) bool { return d.Entries[i].Name < d.Entries[j].Name })
	}
	return root, data
}

func deviceList(data [][]byte, embed ...int) []Device {
	list := make([]Device, len(data))
	for i, d := range data {
		list[i].Size = int64(len(d))
	}
	for _, i := range embed {
		list[i].Embed = bytes.NewReader(data[i])
	}
	return list
}

// describe lists a tree, one line per name. With data, the content of files too.
func describe(root *Inode, content func(*Inode) []byte) []string {
	var lines []string
	first := map[*Inode]string{}
	var walk func(in *Inode, path string)
	walk = func(in *Inode, path string) {
		line := fmt.Sprintf("%q %o %d:%d %d.%09d %d dev %d:%d -> %q %q", path, in.Mode, in.UID, in.GID, in.Sec, in.Nsec, in.Size, in.Major, in.Minor, in.Target, in.attributes())
		if in.Mode&typeMask == typeReg {
			line += fmt.Sprintf(" %x", content(in))
		}
		if other, ok := first[in]; ok {
			line += " = " + other
		}
		first[in] = path
		lines = append(lines, line)
		for _, e := range in.Entries {
			walk(e.Inode, path+"/"+e.Name)
		}
	}
	walk(root, "")
	return lines
}

// readBack gives the content of files as the image says where it is.
func readBack(image []byte, data [][]byte) func(*Inode) []byte {
	return func(in *Inode) []byte {
		switch {
		case in.Size == 0:
			return nil
		case in.Redirect != "": // a hole here
			return make([]byte, in.Size)
		case in.Device < 0:
			return image[in.Offset:][:in.Size]
		}
		return data[in.Device][in.Offset:][:in.Size]
	}
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d: got\n%.300s\nwant\n%.300s", i, strings.Join(got[min(i, len(got)):min(i+1, len(got))], ""), strings.Join(want[min(i, len(want)):min(i+1, len(want))], ""))
		}
	}
}

func TestRoundTrip(t *testing.T) {
	differ := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		root, data := randomTree(r, 1+r.IntN(300), 1+r.IntN(5), BlockSize)
		var b, again bytes.Buffer
		n, err := Write(&b, root, deviceList(data))
		if err != nil || n != int64(b.Len()) || n%4096 != 0 {
			t.Fatalf("seed %d: %d of %d bytes, %v", seed, n, b.Len(), err)
		}
		img, err := Check(bytes.NewReader(b.Bytes()), n)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		compare(t, describe(img.Root, readBack(b.Bytes(), data)), describe(root, readBack(nil, data)))
		// What the writer leaves in the tree does not matter the next time.
		if _, err := Write(&again, root, deviceList(data)); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
			t.Fatalf("seed %d: the second image differs, %v", seed, err)
		}
		// As it was before files named their device.
		b.Reset()
		if n, err = WritePlain(&b, root, deviceList(data)); err != nil {
			t.Fatal(err)
		}
		if img, err = Check(bytes.NewReader(b.Bytes()), n); err != nil {
			t.Fatalf("seed %d: plain: %v", seed, err)
		}
		if !bytes.Equal(b.Bytes(), again.Bytes()) {
			differ++
		}
		compare(t, describe(img.Root, readBack(b.Bytes(), data)), describe(root, readBack(nil, data)))
		// Embedded data comes back from the image.
		b.Reset()
		if n, err = Write(&b, root, deviceList(data, 0)); err != nil {
			t.Fatal(err)
		}
		want := describe(root, readBack(nil, data))
		if img, err = Check(bytes.NewReader(b.Bytes()), n); err != nil || len(img.Devices) != len(data)-1 {
			t.Fatalf("seed %d: embedded: %v", seed, err)
		}
		content := readBack(b.Bytes(), data[1:])
		compare(t, describe(img.Root, content), want)
	}
	if differ < 50 {
		t.Errorf("only %d images of 100 have files that name their device", differ)
	}
}

// A chunk's size has five bits in the format: what needs more must not look like a
// small one.
func TestWrite_LargestChunk(t *testing.T) {
	for size, indexed := range map[int64]bool{pageSize: false, pageSize + 1: true, 1 << 40: true, 1<<40 + 1: false} {
		var b bytes.Buffer
		n, err := Write(&b, dirOf("a", reg(size, 0, 512)), []Device{{Size: size + 1024}})
		if err != nil {
			t.Fatal(err)
		}
		img, err := Check(bytes.NewReader(b.Bytes()), n)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if in := img.Root.Entries[0].Inode; in.Size != size || in.Device != 0 || in.Offset != 512 {
			t.Errorf("%d bytes: %+v", size, in)
		}
		if got := le.Uint32(b.Bytes()[superOffset+80:])&incompatChunks != 0; got != indexed {
			t.Errorf("%d bytes: in a chunk: %v", size, got)
		}
	}
}

func reg(size int64, device int32, offset int64) *Inode {
	return &Inode{Mode: typeReg | 0o644, Size: size, Device: device, Offset: offset}
}

func dirOf(pairs ...any) *Inode {
	d := &Inode{Mode: typeDir | 0o755}
	for i := 0; i < len(pairs); i += 2 {
		d.Entries = append(d.Entries, Dirent{pairs[i].(string), pairs[i+1].(*Inode)})
	}
	return d
}

// Trees that no image can hold are refused and nothing else happens.
func TestWrite_Refused(t *testing.T) {
	dev := []Device{{Size: 2048}}
	sub := dirOf()
	for name, root := range map[string]*Inode{
		"root is a file":       reg(0, 0, 0),
		"data out of device":   dirOf("a", reg(1025, 0, 1024)),
		"negative size":        dirOf("a", reg(-1, 0, 0)),
		"not aligned":          dirOf("a", reg(1, 0, 100)),
		"no such device":       dirOf("a", reg(1, 1, 0)),
		"negative device":      dirOf("a", reg(1, -1, 0)),
		"slash":                dirOf("a/b", reg(0, 0, 0)),
		"dot dot":              dirOf("..", reg(0, 0, 0)),
		"empty name":           dirOf("", reg(0, 0, 0)),
		"NUL":                  dirOf("a\x00", reg(0, 0, 0)),
		"long name":            dirOf(strings.Repeat("x", 256), reg(0, 0, 0)),
		"not sorted":           dirOf("b", reg(0, 0, 0), "a", reg(0, 0, 0)),
		"twice":                dirOf("a", reg(0, 0, 0), "a", reg(0, 0, 0)),
		"directory twice":      dirOf("a", sub, "b", sub),
		"no type":              dirOf("a", &Inode{Mode: 0o644}),
		"empty link":           dirOf("a", &Inode{Mode: typeLink}),
		"long link":            dirOf("a", &Inode{Mode: typeLink, Target: strings.Repeat("x", 4096)}),
		"attribute of no kind": dirOf("a", &Inode{Mode: typeReg, Xattrs: []Xattr{{"other.x", ""}}}),
		"attribute no name":    dirOf("a", &Inode{Mode: typeReg, Xattrs: []Xattr{{"user.", ""}}}),
		"empty redirect":       dirOf("a", &Inode{Mode: typeReg, Redirect: "/x"}),
		"relative redirect":    dirOf("a", &Inode{Mode: typeReg, Size: 1, Redirect: "x"}),
		"long redirect":        dirOf("a", &Inode{Mode: typeReg, Size: 1, Redirect: "/" + strings.Repeat("x", maxPath)}),
		"large redirect":       dirOf("a", &Inode{Mode: typeReg, Size: 1<<40 + 1, Redirect: "/x"}),
		"large attribute":      dirOf("a", &Inode{Mode: typeReg, Xattrs: []Xattr{{"user.x", strings.Repeat("x", 1<<16)}}}),
	} {
		if n, err := Write(&bytes.Buffer{}, root, dev); err == nil {
			t.Errorf("%s: wrote %d bytes", name, n)
		}
	}
	if _, err := Write(&bytes.Buffer{}, dirOf("a", reg(1, 1, 0)), []Device{{Size: 1 << 41}, {Size: 512}}); err != ErrTooLarge {
		t.Errorf("2 TiB and more: %v", err)
	}
}

// Each flipped byte of a header is noticed, or harmless: never a panic, never
// an image that reads outside of itself.
func TestCheck_Damage(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	root, data := randomTree(r, 40, 2, BlockSize)
	var b bytes.Buffer
	n, err := Write(&b, root, deviceList(data))
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for i := superOffset; i < b.Len(); i += 1 + i/2048 {
		c := bytes.Clone(b.Bytes())
		c[i] ^= 1 << r.IntN(8)
		if _, err := Check(bytes.NewReader(c), n); err != nil {
			noticed++
		} else if i < superOffset+BlockSize && i >= superOffset {
			t.Errorf("byte %d of the superblock is changed and nobody sees it", i)
		}
	}
	if noticed < 500 {
		t.Errorf("noticed %d changes only", noticed)
	}
}

// fsck.erofs of Debian 12 (1.5) knows blocks of 4096 bytes only, and cannot read
// devices by unified addresses, so it looks at the same trees written with such
// blocks and all data embedded: names, inodes, attributes and links are the same.
// The addresses are for the kernel to check.
func TestFsck(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 2))
		fsck(t, r, 1+r.IntN(2000), 1+r.IntN(3))
	}
}

// fsck has fsck.erofs check and extract a random tree.
func fsck(t *testing.T, r *rand.Rand, files, devices int) {
	t.Helper()
	root, data := randomTree(r, files, devices, 4096)
	embed := make([]int, len(data))
	for i := range data {
		embed[i] = i
	}
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{bits: 12, devices: deviceList(data, embed...)}
	n, err := w.write(f, root)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Check(bytes.NewReader(b), n); err != nil {
		t.Fatal(err)
	}
	// tools/deps.sh installs erofs-utils.
	if out, err := exec.Command("fsck.erofs", "--extract", path).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}
