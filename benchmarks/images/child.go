package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// child is what the program does when it is started by itself: parts that are measured from
// outside, or that would make the measuring process large, whose size its children start with.
func child(what string, args []string) error {
	switch what {
	case "generate":
		g, err := generate(args[0], images[args[1]])
		if err != nil {
			return err
		}
		text, err := json.Marshal(g)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(args[0], "generated.json"), text, 0o644)
	case "registry":
		return serveRegistry(args[0])
	case "decode":
		return decode(args)
	case "touch":
		_, err := unix.Mmap(-1, 0, touched, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		return err
	case "mount":
		return mountTimes(args[0])
	case "read":
		return readAll(args[0], overlay.ChainID(args[1]), false)
	case "second":
		return readAll(args[0], overlay.ChainID(args[1]), true)
	}
	return fmt.Errorf("unknown child %q", what)
}

// decode is the least that unpacking has to do: inflate and hash.
func decode(blobs []string) error {
	buf := make([]byte, 128<<10)
	for _, name := range blobs {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			return err
		}
		h := sha256.New()
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{z}, buf); err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

// measured is what a child reports.
type measured struct {
	Prepare, Mount []float64 // ns
	Wall, CPU      float64   // ns
	Files          int
	Bytes          int64
}

func report(m measured) error { return json.NewEncoder(os.Stdout).Encode(m) }

const (
	touched  = 1536 << 20 // more than reading the image takes: pages of two caches, and inodes
	mounts   = 51
	fileSize = 9000 // so that a layer is large enough to be used where it lies
)

// mountTimes makes chains of layers with an index and mounts the root directory of a container
// on them again and again, by turns: prepare and mount what run --image prepares and mounts.
func mountTimes(dir string) error {
	all := map[int]*measured{}
	stores := map[int]*overlay.Store{}
	tops := map[int]overlay.ChainID{}
	for _, n := range depths {
		s, err := overlay.OpenStore(filepath.Join(dir, "layers-"+strconv.Itoa(n)))
		if err != nil {
			return err
		}
		defer s.Close()
		all[n], stores[n] = &measured{}, s
		if tops[n], err = chainOf(s, n); err != nil {
			return err
		}
	}
	if err := settle(dir); err != nil {
		return err
	}
	for i := range mounts {
		for _, n := range depths {
			if err := mountTime(stores[n], tops[n], n, i, all[n]); err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// chainOf makes a chain of n layers.
func chainOf(s *overlay.Store, n int) (top overlay.ChainID, err error) {
	base := &apply.Base{}
	for i := range n {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for j := range 10 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("dir%d/file-%d", j, i), Mode: 0o644, Size: fileSize}); err != nil {
				return "", err
			}
			if _, err := w.Write(make([]byte, fileSize)); err != nil {
				return "", err
			}
		}
		if err := w.Close(); err != nil {
			return "", err
		}
		diffID := fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes()))
		if top, _, err = apply.Layer(context.Background(), s, top, diffID, &b, apply.Options{Kind: apply.Index, Base: base, Inner: i < n-1}); err != nil {
			return "", err
		}
	}
	return top, nil
}

// mountTime prepares and mounts one container of a chain of n layers, and removes it.
func mountTime(s *overlay.Store, top overlay.ChainID, n, i int, m *measured) error {
	began := time.Now()
	sn, err := s.PrepareFor("bench-"+strconv.Itoa(i), top, "/run/minirun/bench")
	if err != nil {
		return err
	}
	prepared := time.Now()
	fd, err := sn.Mount()
	if err != nil {
		return err
	}
	mounted := time.Now()
	if i == 0 { // is it all there?
		list, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d/dir9", fd))
		if err != nil || len(list) != n {
			return fmt.Errorf("%d of %d files, %w", len(list), n, err)
		}
	} else {
		m.Prepare = append(m.Prepare, float64(prepared.Sub(began)))
		m.Mount = append(m.Mount, float64(mounted.Sub(prepared)))
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	return s.RemoveSnapshot(sn.Key())
}

// readAll reads every file of a chain through a new mount; second: while another
// container has the image, and has read it all.
func readAll(dir string, c overlay.ChainID, second bool) error {
	s, err := overlay.OpenStore(dir)
	if err != nil {
		return err
	}
	defer s.Close()
	if second {
		end, err := first(s, c)
		if err != nil {
			return err
		}
		defer end()
	}
	sn, err := s.Prepare("bench-read", c)
	if err != nil {
		return err
	}
	defer s.RemoveSnapshot(sn.Key())
	fd, err := sn.Mount()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m, err := readTree(fd)
	if err != nil {
		return err
	}
	return report(m)
}

// first mounts a container's root, reads it all, and announces us as who keeps its image.
func first(s *overlay.Store, c overlay.ChainID) (end func(), err error) {
	sn, err := s.PrepareFor("bench-first", c, "/run/minirun/bench")
	if err != nil {
		return nil, err
	}
	fd, err := sn.Mount()
	if err != nil {
		return nil, err
	}
	share := sn.Share()
	end = func() {
		unix.Close(fd)
		if share != nil {
			share.Close()
		}
		sn.Close()
		_ = s.RemoveSnapshot(sn.Key())
	}
	if share != nil {
		stat, err := os.ReadFile("/proc/self/stat")
		if err != nil {
			return end, err
		}
		start, err := strconv.ParseUint(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[19], 10, 64)
		if err != nil {
			return end, err
		}
		share.Announce(os.Getpid(), start, share.Mount)
	}
	_, err = readTree(fd)
	return end, err
}

// readTree reads every file below a directory.
func readTree(fd int) (measured, error) {
	var m measured
	buf := make([]byte, 128<<10)
	used, began := cpuOfSelf(), time.Now()
	err := filepath.WalkDir(fmt.Sprintf("/proc/self/fd/%d/", fd), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(f)
		m.Files++
		for {
			n, err := unix.Read(f, buf)
			if err != nil {
				return &fs.PathError{Op: "read", Path: path, Err: err}
			}
			if n == 0 {
				return nil
			}
			m.Bytes += int64(n)
		}
	})
	m.Wall, m.CPU = float64(time.Since(began)), float64(cpuOfSelf()-used)
	return m, err
}

func cpuOfSelf() int64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
