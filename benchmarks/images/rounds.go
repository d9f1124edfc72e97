package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is what was measured of one case and one tool.
type row struct {
	test, tool string
	wall, cpu  []float64 // ns
	rss        []float64 // KiB
	inodes     []float64 // made by a pull, left by a removal
	failed     string
}

func (b *bench) at(test, tool string) *row {
	for _, r := range b.rows {
		if r.test == test && r.tool == tool {
			return r
		}
	}
	r := &row{test: test, tool: tool}
	b.rows = append(b.rows, r)
	return r
}

func (r *row) add(u usage, inodes float64) {
	r.wall = append(r.wall, float64(u.wall))
	r.cpu = append(r.cpu, float64(u.cpu))
	r.rss = append(r.rss, float64(u.rss))
	r.inodes = append(r.inodes, inodes)
}

func (b *bench) inodes() float64 { return inodes(b.dir) }

// inodes of a file system in use.
func inodes(dir string) float64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0
	}
	return float64(fs.Files - fs.Ffree)
}

// settle writes out what earlier commands have left to be written, so that nobody pays for others.
func (b *bench) settle() error { return settle(b.dir) }

func settle(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

var depths = []int{1, 10, 128, 500}

// rounds runs everything, each tool once in each round, in another order each time.
func (b *bench) rounds(from string) error {
	// First: every round has its share of a machine that gets slower or faster.
	if b.wants("minirun-index") {
		if err := b.mounts(); err != nil {
			return err
		}
	}
	longest := time.Duration(0)
	for i := range b.o.rounds {
		if b.o.time > 0 && i > 0 && time.Since(b.began)+longest > b.o.time {
			b.notes = append(b.notes, fmt.Sprintf("%d of %d rounds: no time for more", i, b.o.rounds))
			return nil
		}
		began := time.Now()
		order := append([]*tool(nil), b.all...)
		for range i { // each begins once
			order = append(order[1:], order[0])
		}
		for _, t := range order {
			if b.stopped.Load() {
				b.notes = append(b.notes, "STOPPED by a signal")
				return nil
			}
			if t.skip == "" {
				if err := b.life(t); err != nil {
					return err
				}
			}
		}
		if b.wants("minirun-index") || b.wants("minirun-extract") {
			if err := b.unpack(from); err != nil {
				return err
			}
		}
		longest = max(longest, time.Since(began))
	}
	return nil
}

// wants reports whether a tool is to be measured.
func (b *bench) wants(tool string) bool {
	return b.o.only == "" || strings.Contains(","+b.o.only+",", ","+tool+",")
}

// mounts measures the way from an image to a mounted root directory.
func (b *bench) mounts() error {
	u, err := b.run(b.own, b.child("mount", b.dir))
	if err != nil {
		b.at("mount", depthName(depths[0])).failed = err.Error()
		return nil
	}
	all := map[int]measured{}
	if err := json.Unmarshal(u.out, &all); err != nil {
		return err
	}
	for _, n := range depths {
		b.at("mount", depthName(n)).wall = all[n].Mount
		b.at("prepare", depthName(n)).wall = all[n].Prepare
	}
	return nil
}

func depthName(n int) string { return fmt.Sprintf("%d layers", n) }

// life is pull and removal.
func (b *bench) life(t *tool) error {
	pull, rm := b.at("pull", t.name), b.at("rm", t.name)
	if pull.failed != "" || rm.failed != "" {
		return nil
	}
	for _, s := range t.stores {
		if err := os.RemoveAll(s); err != nil {
			return err
		}
	}
	if err := b.settle(); err != nil {
		return err
	}
	had := b.inodes()
	if t.daemon != nil {
		t.daemon.forgetPeak()
	}
	u, err := b.run(t.group, t.pull...)
	if err != nil {
		pull.failed = err.Error()
		return nil
	}
	if t.daemon != nil {
		u.rss = max(u.rss, t.daemon.peak())
	}
	pull.add(u, b.inodes()-had)
	if err := b.settle(); err != nil {
		return err
	}
	u, err = b.run(t.group, t.rm...)
	if err != nil {
		rm.failed = err.Error()
		return nil
	}
	rm.add(u, b.inodes()-had)
	return nil
}

// read reads every file of the image in a store.
func (b *bench) read(test, tool, store string) error {
	r := b.at(test, tool)
	what := "read"
	if test == "second" {
		what = "second"
	}
	u, err := b.run(b.own, b.child(what, filepath.Join(store, "overlay"), b.chain(store)))
	if err != nil {
		r.failed = err.Error()
		return nil
	}
	var m measured
	if err := json.Unmarshal(u.out, &m); err != nil {
		return err
	}
	r.add(usage{wall: time.Duration(m.Wall), cpu: time.Duration(m.CPU), rss: u.rss}, float64(m.Files))
	return nil
}

// chain is the chain ID of the image.
func (b *bench) chain(store string) string {
	text, err := os.ReadFile(filepath.Join(store, "blobs/sha256", strings.TrimPrefix(b.image.Config.Digest, "sha256:")))
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err != nil || json.Unmarshal(text, &config) != nil {
		return ""
	}
	chain := ""
	for _, d := range config.RootFS.DiffIDs {
		if chain == "" {
			chain = d
		} else {
			chain = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(chain+" "+d)))
		}
	}
	return chain
}

// unpack measures unpacking without the transfer, and the least that it has to do.
func (b *bench) unpack(from string) error {
	name := from + "/" + image
	var blobs []string
	for _, l := range b.image.Layers {
		blobs = append(blobs, filepath.Join(b.blobs, l.Digest))
	}
	floor := b.at("unpack", "inflate+sha256")
	u, err := b.run(b.own, b.child("decode", blobs...))
	if err != nil {
		return err
	}
	floor.add(u, 0)
	at := b.dir
	if b.cold != nil {
		at = b.cold.at
	}
	kinds := []string{"index", "extract"}
	store := func(kind string) string { return filepath.Join(at, "unpack-"+kind) }
	for _, kind := range kinds {
		r := b.at("unpack", "minirun-"+kind)
		global := []string{b.minirun, "--root", filepath.Join(b.dir, "minirun.state"), "--store", store(kind), "image"}
		if _, err := b.run(b.own, slices.Concat(global, []string{"pull", "--quiet", "--no-unpack", name})); err != nil {
			r.failed = err.Error()
			continue
		}
		if err := settle(at); err != nil {
			return err
		}
		had := inodes(at)
		u, err := b.run(b.own, slices.Concat(global, []string{"unpack", "--quiet", "--unpacker", kind, name}))
		if err != nil {
			r.failed = err.Error()
			continue
		}
		r.add(u, inodes(at)-had)
	}
	if err := settle(at); err != nil {
		return err
	}
	// By turns, all of the store in memory: a host may take pages back meanwhile that
	// nobody has used for some seconds, however much memory is free.
	for range reads {
		for _, kind := range kinds {
			for _, test := range []string{"read", "second"} {
				if err := intoMemory(filepath.Join(store(kind), "overlay/layers")); err != nil {
					return err
				}
				if err := b.touch(); err != nil {
					return err
				}
				if err := b.read(test, "minirun-"+kind, store(kind)); err != nil {
					return err
				}
			}
		}
	}
	for _, kind := range kinds {
		if b.cold != nil {
			if err := b.cold.forget(); err != nil {
				return err
			}
			if err := b.read("cold", "minirun-"+kind, store(kind)); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(store(kind)); err != nil {
			return err
		}
	}
	return nil
}

// touch uses more memory than reading an image takes, and gives it back: the host of a
// virtual machine may have taken free memory away, and who gets that first waits for it.
func (b *bench) touch() error {
	_, err := b.run(b.own, b.child("touch"))
	return err
}

// intoMemory reads all files below a directory.
func intoMemory(dir string) error {
	buf := make([]byte, 1<<20)
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for err == nil {
			_, err = f.Read(buf)
		}
		if err == io.EOF {
			return nil
		}
		return err
	})
}

// reads is how often everything is read in a round.
const reads = 3
