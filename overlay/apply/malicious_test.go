package apply

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// attackCase is a chain of layers; all but the last must unpack. {C} in names
// stands for the absolute path of a directory outside of the store with the
// file "file" in it.
type attackCase struct {
	name   string
	layers [][]byte
	opts   Options
	want   error // class of the last layer's error
	text   string
	check  func(t *testing.T, layer string, res Result) // when it unpacks
}

func content(path, want string) func(*testing.T, string, Result) {
	return func(t *testing.T, layer string, _ Result) {
		t.Helper()
		st, err := os.Lstat(filepath.Join(layer, path))
		if err != nil || !st.Mode().IsRegular() {
			t.Errorf("%q: %v, %v, want a regular file", path, st, err)
			return
		}
		if b, err := os.ReadFile(filepath.Join(layer, path)); err != nil || string(b) != want {
			t.Errorf("%q: got %q, %v, want %q", path, b, err, want)
		}
	}
}

func attacks(t *testing.T, canary string) []attackCase {
	one := func(ents ...ent) [][]byte {
		for i := range ents {
			ents[i].Name = strings.ReplaceAll(ents[i].Name, "{C}", canary)
			ents[i].Linkname = strings.ReplaceAll(ents[i].Linkname, "{C}", canary)
		}
		return [][]byte{archive(t, ents...)}
	}
	two := func(a, b [][]byte) [][]byte { return append(a, b...) }
	rel := "../../../../../../../../../../../.." + canary
	inside := strings.TrimPrefix(canary, "/")
	var chain []ent
	for i := range 41 {
		chain = append(chain, symlink("l"+string(rune('0'+i/10))+string(rune('0'+i%10)), "l"+string(rune('0'+(i+1)/10))+string(rune('0'+(i+1)%10))))
	}
	deep := strings.Repeat("d/", 257) + "f"
	bigMap := strings.Repeat("0\n", 1<<20)
	var manyXattrs []string
	for i := range 700 {
		manyXattrs = append(manyXattrs, "SCHILY.xattr.user."+strings.Repeat("n", 90)+time.Duration(i).String(), "v")
	}
	nested := rawEntry("smuggled", '0', "evil")
	return []attackCase{
		{name: "01 dot dot", layers: one(file("../../canary/new", "x")), want: ErrInvalid},
		{name: "01 dot dot to the canary", layers: one(file(rel+"/new", "x")), want: ErrInvalid},
		{name: "01 dot dot inside", layers: one(file("a/../b", "x")), want: ErrInvalid},
		{name: "01 dot dot alone", layers: one(dir("..")), want: ErrInvalid},
		{name: "02 absolute", layers: one(file("{C}/new", "x")), check: content(inside+"/new", "x")},
		{name: "03 through an absolute link", layers: one(symlink("a", "{C}"), file("a/new", "x")), check: content(inside+"/new", "x")},
		{name: "03 through a relative link", layers: one(symlink("a", rel), file("a/new", "x")), check: content(inside+"/new", "x")},
		{name: "03 over a link to a file", layers: one(symlink("a", "{C}/file"), file("a", "x")), check: content("a", "x")},
		{name: "03 link, directory of that name, file", layers: one(symlink("a", "{C}"), dir("a"), file("a/new", "x")), check: content("a/new", "x")},
		{name: "03 link over a directory in use", layers: one(file("a/1", "x"), symlink("a", "{C}"), file("a/2", "x")), check: content(inside+"/2", "x")},
		{
			name: "04 link in a lower layer", layers: two(one(symlink("a", "{C}")), one(file("a/new", "x"))),
			check: func(t *testing.T, l string, r Result) {
				content("a/new", "x")(t, l, r)
				if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "hides a symbolic link") {
					t.Errorf("warnings %q", r.Warnings)
				}
			},
		},
		{name: "04 hard link through a link of a lower layer", layers: two(one(symlink("a", "{C}")), one(hardlink("b", "a/file"))), want: ErrInvalid},
		{name: "05 chain of links", layers: one(append(chain, file("l00/f", "x"))...), want: ErrInvalid},
		{name: "05 loop", layers: one(symlink("a", "a"), file("a/f", "x")), want: ErrInvalid},
		{name: "05 loop of two", layers: one(symlink("a", "b"), symlink("b", "a"), file("a/f", "x")), want: ErrInvalid},
		{name: "06 hard link up", layers: one(hardlink("a", rel+"/file")), want: ErrInvalid},
		{name: "06 hard link to an absolute path", layers: one(hardlink("a", "{C}/file")), want: ErrInvalid},
		{name: "06 hard link through a link", layers: one(symlink("l", "{C}"), hardlink("a", "l/file")), want: ErrInvalid},
		{name: "06 hard link to a directory", layers: one(dir("d"), hardlink("a", "d")), want: ErrInvalid},
		{name: "06 hard link to the root", layers: one(hardlink("a", "/")), want: ErrInvalid},
		{name: "06 hard link to what the layer hides", layers: two(one(file("d/f", "x")), one(file("d/"+whOpaque, ""), hardlink("x", "d/f"))), want: ErrInvalid},
		{
			name: "06 hard link to what the layer hides later", layers: two(one(file("d/f", "x")), one(hardlink("x", "d/f"), file("d/"+whOpaque, ""))),
			check: func(t *testing.T, l string, r Result) {
				content("x", "x")(t, l, r)
				if names, err := os.ReadDir(l + "/d"); err != nil || len(names) > 0 {
					t.Errorf("d has %v, %v", names, err)
				}
			},
		},
		{name: "directories that close themselves", layers: one(dir("a").mode(0o100), dir("a/b").mode(0), file("a/b/c/d", "x")), check: func(t *testing.T, l string, _ Result) {
			for _, d := range []string{"/a", "/a/b"} { // open them for the test's own clean-up
				if st, err := os.Lstat(l + d); err != nil || st.Mode().Perm()&0o600 != 0 {
					t.Errorf("%s: %v, %v", d, st, err)
				}
				if err := os.Chmod(l+d, 0o700); err != nil && !errors.Is(err, unix.EROFS) {
					t.Error(err)
				}
			}
		}},
		{name: "07 hard link relative to the working directory", layers: one(hardlink("a", "apply.go")), want: ErrInvalid},
		{name: "08 write after a hard link to a link", layers: one(symlink("l", "{C}/file"), hardlink("h", "l"), file("h", "x")), check: content("h", "x")},
		{name: "08 write after a hard link", layers: one(file("f", "keep"), hardlink("h", "f"), file("h", "x")), check: content("f", "keep")},
		{name: "09 root as a link", layers: one(symlink("./", "{C}"), file("new", "x")), want: ErrInvalid},
		{name: "09 root as a file", layers: [][]byte{raw(rawEntry("/", '0', ""))}, want: ErrInvalid},
		{name: "09 root as a hard link", layers: one(hardlink(".", "{C}/file")), want: ErrInvalid},
		{name: "10 attributes over a link", layers: one(symlink("a", "{C}"), dir("a").mode(0o700).own(5, 5), symlink("b", "{C}/file").mode(0).own(5, 5))},
		{name: "12 whiteout of nothing", layers: one(file(".wh.", "")), want: ErrInvalid},
		{name: "12 whiteout of dot", layers: one(file(".wh..", "")), want: ErrInvalid},
		{name: "12 whiteout of dot dot", layers: one(file("a/.wh...", "")), want: ErrInvalid},
		{name: "12 whiteout with a slash", layers: one(file(".wh.a/b", "")), check: func(t *testing.T, l string, r Result) {
			if names, _ := os.ReadDir(l); len(names) != 0 {
				t.Errorf("unpacked %v", names)
			}
		}},
		{name: "13 whiteout through a link", layers: one(symlink("a", "{C}"), whiteoutOf("a/file"))},
		{name: "13 whiteout through a link of a lower layer", layers: two(one(symlink("a", "{C}")), one(whiteoutOf("a/file")))},
		{name: "13 opaque through a link", layers: one(symlink("a", "{C}"), file("a/"+whOpaque, ""))},
		{name: "14 opaque below a file", layers: one(file("a", "x"), file("a/"+whOpaque, "")), want: ErrInvalid},
		{name: "14 file below a file", layers: one(file("a", "x"), file("a/b", "")), want: ErrInvalid},
		{name: "15 whiteouts of all types", layers: two(one(file("a", "1"), file("b", "2"), file("c", "3")),
			one(dir(".wh.a"), symlink(".wh.b", "{C}/file"), file(".wh.c", "data"))), check: func(t *testing.T, l string, r Result) {
			for _, n := range []string{"a", "b", "c"} {
				var st unix.Stat_t
				err := unix.Lstat(l+"/"+n, &st)
				if r.Kind == overlay.Indexed {
					if err != unix.ENOENT {
						t.Errorf("%s: %v, want it hidden", n, err)
					}
					continue
				}
				if err != nil || st.Mode != unix.S_IFCHR || st.Rdev != 0 {
					t.Errorf("%s: mode %o, device %d, %v, want a whiteout", n, st.Mode, st.Rdev, err)
				}
			}
		}},
		{name: "16 character device 0:0", layers: one(file("a", "x").typ(tar.TypeChar).dev(0, 0)), want: ErrInvalid},
		{name: "17 device number out of range", layers: one(file("a", "").typ(tar.TypeBlock).dev(1<<12, 0)), want: ErrInvalid},
		{name: "21 attributes too large", layers: one(file("a", "").pax("SCHILY.xattr.user.a", strings.Repeat("x", 65<<10))), want: ErrLimit},
		{name: "21 too many attributes", layers: one(file("a", "").pax(manyXattrs...)), want: ErrLimit},
		{name: "21 attribute without a name", layers: one(file("a", "").pax("SCHILY.xattr.", "x")), want: ErrInvalid},
		{name: "21 attribute name too long", layers: one(file("a", "").pax("SCHILY.xattr.user."+strings.Repeat("x", 255), "x")), want: ErrInvalid},
		{name: "21 bad libarchive value", layers: one(file("a", "").pax("LIBARCHIVE.xattr.user.a", "***")), want: ErrInvalid},
		{name: "22 attribute of a link", layers: one(symlink("a", "b").pax("SCHILY.xattr.user.a", "x")), check: func(t *testing.T, _ string, r Result) {
			if len(r.Warnings) != 1 {
				t.Errorf("warnings %q, want one", r.Warnings)
			}
		}},
		{name: "24 overlay opaque", layers: one(dir("a").pax("SCHILY.xattr.trusted.overlay.opaque", "y")), want: ErrInvalid},
		{name: "24 overlay redirect", layers: one(dir("a").pax("SCHILY.xattr.trusted.overlay.redirect", "/../x")), want: ErrInvalid},
		{name: "24 overlay metacopy", layers: one(file("a", "").pax("SCHILY.xattr.trusted.overlay.metacopy", "")), want: ErrInvalid},
		{name: "24 user overlay", layers: one(file("a", "").pax("SCHILY.xattr.user.overlay.origin", "x")), want: ErrInvalid},
		{name: "24 by libarchive, encoded", layers: one(dir("a").pax("LIBARCHIVE.xattr.trusted.overlay%2Eopaque", "eQ==")), want: ErrInvalid},
		{name: "24 nested", layers: one(dir("a").pax("SCHILY.xattr.trusted.overlay.overlay.opaque", "y")), want: ErrInvalid},
		{name: "24 on a link", layers: one(symlink("a", "b").pax("SCHILY.xattr.trusted.overlay.opaque", "y")), want: ErrInvalid},
		{
			name: "30 nested archive behind a PAX size", layers: [][]byte{raw(rawPAX('x', "size", "1024"), rawHeader("f", '0', 0, ""), nested)},
			check: func(t *testing.T, l string, r Result) {
				content("f", string(nested))(t, l, r)
				if names, _ := os.ReadDir(l); len(names) != 1 {
					t.Errorf("unpacked %v, want f only", names)
				}
			},
		},
		{name: "30 negative PAX size", layers: [][]byte{raw(rawPAX('x', "size", "-1"), rawHeader("f", '0', 0, ""))}, want: ErrInvalid},
		{name: "30 global PAX path", layers: [][]byte{raw(rawPAX('g', "path", "x"), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "30 global PAX size", layers: [][]byte{raw(rawPAX('g', "size", "5"), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "30 global PAX comment", layers: [][]byte{raw(rawPAX('g', "comment", "hi"), rawEntry("f", '0', "x"))}, check: content("f", "x")},
		{name: "31 sparse map bomb", layers: [][]byte{raw(rawPAX('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "1", "GNU.sparse.name", "f"),
			rawEntry("f", '0', "1048575\n"+bigMap))}, want: ErrInvalid},
		{name: "32 PAX bomb", layers: [][]byte{raw(rawPAX('x', "comment", strings.Repeat("x", 2<<20)), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "32 long name", layers: [][]byte{raw(rawPAX('x', "path", strings.Repeat("x/", 2049)), rawEntry("f", '0', "x"))}, want: ErrLimit},
		{name: "32 long link", layers: [][]byte{raw(rawPAX('x', "linkpath", strings.Repeat("x/", 2049)), rawHeader("f", '2', 0, ""))}, want: ErrInvalid},
		{name: "32 deep name", layers: one(file(deep, "x")), want: ErrLimit},
		{name: "32 deeper through links", layers: one(append([]ent{dir("a")}, deeper()...)...), want: ErrLimit},
		{name: "33 stream too long", layers: one(file("f", strings.Repeat("x", 1<<20))), opts: Options{MaxBytes: 1 << 19}, want: ErrLimit},
		{name: "33 end never comes", layers: [][]byte{append(raw(rawEntry("f", '0', "x")), make([]byte, 1<<20)...)}, opts: Options{MaxBytes: 1 << 19}, want: ErrLimit},
		{name: "35 hole over the limit", layers: [][]byte{raw(sparse("f", 1<<40))}, opts: Options{MaxBytes: 1 << 30}, want: ErrLimit},
		{name: "36 garbage after the end", layers: [][]byte{append(raw(rawEntry("f", '0', "x")), strings.Repeat("garbage", 1<<20)...)}, check: content("f", "x")},
		{name: "36 entry after the end", layers: [][]byte{append(raw(rawEntry("f", '0', "x")), raw(rawEntry("g", '0', "x"))...)}, check: func(t *testing.T, l string, r Result) {
			if names, _ := os.ReadDir(l); len(names) != 1 {
				t.Errorf("unpacked %v, want f only", names)
			}
		}},
		{name: "37 too many entries", layers: one(manyFiles(101)...), opts: Options{MaxEntries: 100}, want: ErrLimit},
		{name: "37 too many directories", layers: one(manyDirs(2000)...), opts: Options{MaxMemory: 100_000}, want: ErrLimit},
		{name: "37 too many whiteouts", layers: one(manyWhiteouts(5000)...), opts: Options{MaxMemory: 100_000}, want: ErrLimit},
		{name: "37 too many forward links", layers: one(manyLinks(5000)...), opts: Options{MaxMemory: 100_000}, want: ErrLimit},
		{name: "39 type flips", layers: one(file("a", "1"), dir("a"), file("a/x", "2"), symlink("a", "{C}"), file("a", "3"), hardlink("a", "a"), file("a", "4")), check: content("a", "4")},
		{name: "39 directory flips with something inside", layers: one(file("a/b/c", "1"), file("a/b", "2"), file("a/b", "3")), check: content("a/b", "3")},
		{name: "39 hard link over what it links to", layers: one(file("a/b", "1"), hardlink("a", "a/b")), want: ErrInvalid},
		{name: "40 case", layers: one(file("a", "1"), file("A", "2")), check: content("a", "1")},
		{name: "40 newline and bad UTF-8", layers: [][]byte{raw(rawEntry("a\nb\xff", '0', "1"))}, check: content("a\nb\xff", "1")},
		{name: "40 NUL", layers: [][]byte{raw(rawPAX('x', "path", "a\x00b"), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "40 long component", layers: one(file(strings.Repeat("x", 256), "")), want: ErrInvalid},
		{name: "40 backslash", layers: one(file(`..\..\x`, "1")), check: content(`..\..\x`, "1")},
		{name: "59 file system in place of an archive", layers: [][]byte{emptyImage(t)}, check: func(t *testing.T, l string, _ Result) {
			// It begins with zeros, which end an archive.
			if names, err := os.ReadDir(l); err != nil || len(names) > 0 {
				t.Errorf("unpacked %v, %v, want nothing", names, err)
			}
		}},
		{
			name: "59 files named as those of an index", layers: one(file("image", string(emptyImage(t))), file("entries", entriesMagic), file("tar", "x"), file("parents", "x")),
			check: func(t *testing.T, l string, r Result) {
				content("tar", "x")(t, l, r)
				content("image", string(emptyImage(t)))(t, l, r)
			},
		},
		{name: "ids -1", layers: [][]byte{raw(rawPAX('x', "uid", "4294967295"), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "ids negative", layers: [][]byte{raw(rawPAX('x', "gid", "-1"), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "ids too large", layers: [][]byte{raw(rawPAX('x', "uid", "4294967296"), rawEntry("f", '0', "x"))}, want: ErrInvalid},
		{name: "times far away", layers: [][]byte{raw(rawPAX('x', "mtime", "999999999999999999.5"), rawEntry("f", '0', "x"), rawPAX('x', "mtime", "-999999999999"), rawEntry("g", '0', "x"))}, check: content("f", "x")},
		{name: "empty link target", layers: [][]byte{raw(rawHeader("l", '2', 0, ""))}, want: ErrInvalid},
		{name: "unknown type", layers: [][]byte{raw(rawEntry("f", 'Z', "x"), rawEntry("g", '0', "y"))}, check: content("g", "y")},
		{name: "no archive", layers: [][]byte{[]byte(strings.Repeat("not a tar archive ", 100))}, want: ErrInvalid},
		{name: "empty stream", layers: [][]byte{{}}},
	}
}

// emptyImage is an EROFS image that the kernel mounts.
func emptyImage(t *testing.T) []byte {
	t.Helper()
	var image sliceWriter
	if _, err := erofs.Write(&image, &newDir(nil, "").Inode, nil); err != nil {
		t.Fatal(err)
	}
	return image
}

// deeper nests beyond the limit with short names: each link shortens the way.
func deeper() []ent {
	var ents []ent
	at := "a"
	for i := range 4 {
		p := at + strings.Repeat("/d", 100)
		l := "l" + string(rune('0'+i))
		ents = append(ents, dir(p), symlink(l, p))
		at = l
	}
	return ents
}

func manyFiles(n int) (ents []ent) {
	for i := range n {
		ents = append(ents, file("f"+time.Duration(i).String(), ""))
	}
	return ents
}

func manyDirs(n int) (ents []ent) {
	for i := range n {
		ents = append(ents, dir("d"+time.Duration(i).String()))
	}
	return ents
}

func manyWhiteouts(n int) (ents []ent) {
	for i := range n {
		ents = append(ents, whiteoutOf("w"+time.Duration(i).String()))
	}
	return ents
}

func manyLinks(n int) (ents []ent) {
	for i := range n {
		ents = append(ents, hardlink("l"+time.Duration(i).String(), "later"))
	}
	return append(ents, file("later", ""))
}

// sparse is a PAX 1.0 sparse file of the given size with "data" at its start.
func sparse(name string, size int64) []byte { return sparseAt(name, size, "data", 0) }

// sparseAt has the data at an offset.
func sparseAt(name string, size int64, data string, at int64) []byte {
	m := "1\n" + strconv.FormatInt(at, 10) + "\n" + strconv.Itoa(len(data)) + "\n"
	m += strings.Repeat("\x00", 512-len(m)) + data
	return append(rawPAX('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", name, "GNU.sparse.realsize", itoa(size)),
		rawEntry("GNUSparseFile.0/"+name, '0', m)...)
}

func itoa(n int64) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// runAttacks applies each case and checks the canary and the store.
func runAttacks(t *testing.T, cases func(t *testing.T, canary string) []attackCase) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.Mkdir(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(canary+"/file", []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := append(list(t, canary), ctimes(t, canary)...)
	defer func(n int) {
		if m := openFiles(t); m > n {
			t.Errorf("%d descriptors open, %d before", m, n)
		}
	}(openFiles(t))
	for _, tt := range cases(t, canary) {
		for _, kind := range allKinds {
			t.Run(tt.name+"/"+kind.String(), func(t *testing.T) {
				runAttack(t, tt, kind)
				if after := append(list(t, canary), ctimes(t, canary)...); !slices.Equal(after, before) {
					t.Errorf("canary changed:\n%s\nwas\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
				}
			})
		}
	}
}

func runAttack(t *testing.T, tt attackCase, kind Kind) {
	s := openStore(t)
	tt.opts = kind.options(tt.opts)
	base := kind.options(Options{})
	wantBounded(t, tt.layers, base, tt.opts, tt.want != nil)
	var c overlay.ChainID
	for i, b := range tt.layers {
		last := i == len(tt.layers)-1
		opts := base
		if last {
			opts = tt.opts
		}
		start := time.Now()
		id, res, err := Layer(t.Context(), s, c, digest(b), strings.NewReader(string(b)), opts)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
		if last && tt.want != nil {
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			wantEmpty(t, s, i)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		wantEmpty(t, s, i+1)
		if last && tt.check != nil {
			if kind != Extract {
				// Root has to see what the kernel shows, or nothing.
				if os.Geteuid() != 0 || CanIndex(s) == nil {
					tt.check(t, indexView(t, s, id), res)
				}
			} else {
				tt.check(t, layerDir(s, id), res)
			}
		}
		c = id
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// ctimes tells changes that restore everything else.
func ctimes(t *testing.T, root string) (lines []string) {
	t.Helper()
	for _, name := range []string{"", "/file"} {
		var st unix.Stat_t
		if err := unix.Lstat(root+name, &st); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, time.Unix(st.Ctim.Unix()).String())
	}
	return lines
}

func TestMalicious(t *testing.T) { runAttacks(t, attacks) }
