package apply

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

// model is a flat file system: what a chain of layers means according to the
// image-spec, with none of the tricks of overlayfs.
type model map[string]*mfile // "" is the root

type mfile struct {
	mode     uint32
	uid, gid int
	mtime    int64
	body     string
}

func (m model) isDir(name string) bool {
	return m[name] != nil && m[name].mode&unix.S_IFMT == unix.S_IFDIR
}

func (m model) remove(name string) {
	for k := range m {
		if k == name || strings.HasPrefix(k, name+"/") {
			delete(m, k)
		}
	}
}

// parents makes the directories above name; what is not a directory there is of
// a lower layer (the generator never puts names below its own files).
func (m model) parents(name string) {
	d, _ := cut(name)
	if d == "" {
		return
	}
	m.parents(d)
	if !m.isDir(d) {
		m.remove(d)
		m[d] = &mfile{mode: unix.S_IFDIR | 0o755}
	}
}

func (m model) apply(ents []ent) {
	var marks []ent // these count first, wherever they are
	for _, e := range ents {
		if _, b := cut(e.Name); strings.HasPrefix(b, whPrefix) {
			marks = append(marks, e)
		}
	}
	m.hide(marks)
	for _, e := range ents {
		_, b := cut(e.Name)
		m.parents(e.Name)
		if strings.HasPrefix(b, whPrefix) {
			continue
		}
		f := &mfile{mode: uint32(e.Mode), uid: e.Uid, gid: e.Gid, mtime: e.ModTime.Unix(), body: e.body}
		switch e.Typeflag {
		case tar.TypeDir:
			if !m.isDir(e.Name) {
				m.remove(e.Name)
			}
			f.mode |= unix.S_IFDIR
		case tar.TypeLink:
			f = m[e.Linkname]
			m.remove(e.Name)
		case tar.TypeSymlink:
			m.remove(e.Name)
			f.mode = unix.S_IFLNK | 0o777
			f.body = "-> " + e.Linkname
		default:
			m.remove(e.Name)
			f.mode |= unix.S_IFREG
		}
		m[e.Name] = f
	}
}

func (m model) list() []string {
	var lines []string
	for name, f := range m {
		line := fmt.Sprintf("/%s %o %d:%d %d", name, f.mode, f.uid, f.gid, f.mtime)
		if f.mode&unix.S_IFMT != unix.S_IFDIR {
			line += " " + f.body
		}
		lines = append(lines, line)
	}
	sort.Strings(lines)
	return lines
}

// generate makes a random layer for the state m, which it does not change. It
// picks from few names, so that everything collides with everything.
func generate(r *rand.Rand, m model, seq *int) []ent {
	now := model{}
	for k, v := range m {
		now[k] = v
	}
	var ents []ent
	own := map[string]byte{} // names of this layer and their type
	pick := func() string {
		parts := make([]string, 1+r.IntN(3))
		for i := range parts {
			parts[i] = string("abc"[r.IntN(3)])
		}
		return strings.Join(parts, "/")
	}
	belowOwnFile := func(name string) bool {
		for d, _ := cut(name); d != ""; d, _ = cut(d) {
			if ty, ok := own[d]; ok && ty != tar.TypeDir {
				return true
			}
		}
		return false
	}
	// Markers first in time, so that links know what is left to link to; their
	// place in the archive is shuffled in below.
	var marks []ent
	for range r.IntN(4) {
		name := pick()
		if r.IntN(3) == 0 {
			marks = append(marks, file(strings.TrimPrefix(name+"/", "./")+whOpaque, ""))
		} else {
			marks = append(marks, whiteoutOf(name))
		}
	}
	if r.IntN(8) == 0 {
		marks = append(marks, file(whOpaque, ""))
	}
	markDirs := func(e ent) { // a marker makes its directory
		for d, _ := cut(e.Name); d != ""; d, _ = cut(d) {
			own[d] = tar.TypeDir
		}
	}
	now.hide(marks)
	for range 1 + r.IntN(10) {
		if len(marks) > 0 && r.IntN(3) == 0 {
			if belowOwnFile(marks[0].Name) { // an error, tested elsewhere
				return generate(r, m, seq)
			}
			now.parents(marks[0].Name)
			markDirs(marks[0])
			ents = append(ents, marks[0])
			marks = marks[1:]
			continue
		}
		name := pick()
		if belowOwnFile(name) {
			continue
		}
		*seq++
		var e ent
		switch r.IntN(6) {
		case 0, 1:
			e = file(name, fmt.Sprint("body", *seq)).mode(int64(0o600 + r.IntN(0o200)))
		case 2, 3:
			e = dir(name).mode(int64(0o700 + r.IntN(0o100)))
		case 4:
			e = symlink(name, fmt.Sprint("/nowhere", *seq))
		case 5:
			var targets []string
			for k := range now {
				if now[k].mode&unix.S_IFMT == unix.S_IFREG && !strings.HasPrefix(k, name+"/") && !strings.HasPrefix(name, k+"/") && k != name {
					targets = append(targets, k)
				}
			}
			if len(targets) == 0 {
				continue
			}
			sort.Strings(targets)
			target := targets[r.IntN(len(targets))]
			e = hardlink(name, target)
		}
		e.Uid, e.Gid, e.ModTime = r.IntN(3), 100000+r.IntN(3), time.Unix(int64(1_000_000_000+*seq), 0)
		if e.Typeflag == tar.TypeSymlink {
			e.Mode = 0o777
		}
		for d, _ := cut(name); d != ""; d, _ = cut(d) {
			own[d] = tar.TypeDir
		}
		if e.Typeflag != tar.TypeDir {
			for k := range own {
				if strings.HasPrefix(k, name+"/") {
					delete(own, k)
				}
			}
		}
		own[name] = e.Typeflag
		now.apply([]ent{e})
		ents = append(ents, e)
	}
	for _, e := range marks {
		if belowOwnFile(e.Name) {
			return generate(r, m, seq)
		}
		ents = append(ents, e)
	}
	return ents
}

// hide carries out markers only.
func (m model) hide(marks []ent) {
	for _, e := range marks {
		d, b := cut(e.Name)
		if b == whOpaque {
			for k := range m {
				if k != "" && (d == "" || strings.HasPrefix(k, d+"/")) {
					delete(m, k)
				}
			}
			continue
		}
		n := strings.TrimPrefix(b, whPrefix)
		if d != "" {
			n = d + "/" + n
		}
		m.remove(n)
	}
}

// TestRootLayersEqualFlatModel applies random chains of layers and compares what
// the kernel shows of them, after each layer, with the flat model.
func TestRootLayersEqualFlatModel(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := openStore(t)
		m := model{"": {mode: unix.S_IFDIR | 0o755}}
		var c overlay.ChainID
		var history []string
		seq := 0
		for layer := range 4 {
			ents := generate(r, m, &seq)
			for _, e := range ents {
				history = append(history, fmt.Sprintf("%d: %c %s %s", layer, e.Typeflag, e.Name, e.Linkname))
			}
			id, _, err := apply(s, c, archive(t, ents...))
			if err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(history, "\n"))
			}
			c = id
			m.apply(ents)
			got, want := view(t, s, c), m.list()
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, layer %d:\ngot\n%s\nwant\n%s\nlayers\n%s", seed, layer,
					strings.Join(got, "\n"), strings.Join(want, "\n"), strings.Join(history, "\n"))
			}
		}
	}
}
