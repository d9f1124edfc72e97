package imagestore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// An ingest directory is also a lease: what is linked into it, and the unpacked
// layers of the images that it pins, stay as long as its lock is held. The lock
// is flock(2) of the process that made it, so the lease ends with that process,
// and with the boot, whatever happens. Nothing has to be renewed, and nothing
// expires under work that takes long.

const (
	leaseFile = "lease.json" // who holds it, for people
	pinPrefix = "pin-"       // of files that name the images whose unpacked layers it keeps
)

// Lease says who keeps content alive.
type Lease struct {
	PID  int    // 0 when the record could not be read
	For  string // "image load"
	Live bool   // its process holds the lock
	Dir  string // below ingest/
	// Blobs are those that it keeps in the store, or has ready for it.
	Blobs []Digest
	// Images are those whose unpacked layers it keeps.
	Images []*Image
}

// String is the form in which a reason names it: `lease of process 12 (image load)`.
func (l *Lease) String() string {
	s := "lease of a process"
	if l.PID != 0 {
		s += " " + strconv.Itoa(l.PID)
		s = strings.Replace(s, "a process", "process", 1)
	}
	if l.For != "" {
		s += " (" + l.For + ")"
	}
	return s
}

// leaseRecord is lease.json. A pid says nothing without start time and boot;
// that the lease is held is told by the lock alone.
type leaseRecord struct {
	Version int    `json:"version"`
	PID     int    `json:"pid"`
	Start   string `json:"start"` // field 22 of /proc/PID/stat
	Boot    string `json:"boot"`
	For     string `json:"for,omitempty"`
}

func writeLease(dir, purpose string) error {
	r := leaseRecord{Version: 1, PID: os.Getpid(), For: purpose}
	if b, err := linux.ReadFile("/proc/self/stat", 4096); err == nil {
		if i := bytes.LastIndexByte(b, ')'); i > 0 {
			if f := strings.Fields(string(b[i+1:])); len(f) > 19 {
				r.Start = f[19]
			}
		}
	}
	r.Boot, _ = linux.BootID()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, leaseFile), b, 0o600)
}

// leases returns the ingest directories, of the living and the dead. The lock
// must be held.
func (s *Store) leases() ([]Lease, error) {
	names, err := readNames(s.path(ingestDir))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []Lease
	for _, name := range names {
		g := &Ingest{s: s, dir: s.path(ingestDir, name)}
		l := Lease{Dir: name}
		l.Live, err = isLocked(g.dir)
		if err != nil { // closed a moment ago, or no directory and not ours
			continue
		}
		if b, err := linux.ReadFile(filepath.Join(g.dir, leaseFile), 4096); err == nil {
			var r leaseRecord
			if json.Unmarshal(b, &r) == nil {
				l.PID, l.For = r.PID, r.For
			}
		}
		files, _ := readNames(g.dir)
		for _, f := range files {
			if d, err := ParseDigest(strings.Replace(f, "-", ":", 1)); err == nil {
				l.Blobs = append(l.Blobs, d)
				continue
			}
			if !strings.HasPrefix(f, pinPrefix) {
				continue
			}
			b, err := linux.ReadFile(filepath.Join(g.dir, f), MaxMetadata)
			var d Descriptor
			if err != nil || json.Unmarshal(b, &d) != nil {
				continue
			}
			if img, err := loadFrom(g.ReadBlob, d, HostPlatform(), false); err == nil {
				l.Images = append(l.Images, img)
			}
		}
		slices.Sort(l.Blobs)
		list = append(list, l)
	}
	return list, nil
}

// pinned returns the images that live processes have pinned. The lock must be held.
func (s *Store) pinned() ([]*Image, error) {
	list, err := s.leases()
	if err != nil {
		return nil, err
	}
	var images []*Image
	for _, l := range list {
		if l.Live {
			images = append(images, l.Images...)
		}
	}
	return images, nil
}

// PinStaged keeps the layers that are unpacked from an image of which all blobs
// are in the Ingest or the store, before it is published.
func (g *Ingest) PinStaged(img *Image) error {
	b, err := json.Marshal(img.Manifest)
	if err != nil {
		return err
	}
	// In its place in one step: a prune may be reading it.
	temp := filepath.Join(g.dir, "new-pin")
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(g.dir, pinPrefix+img.Manifest.Digest.Short()))
}

// Held is what Hold keeps of one reference.
type Held struct {
	Entry     Descriptor // as index.json has it
	ByName    bool       // the reference is a name, and no ID
	Referrers []Descriptor
}

// Hold keeps everything that the references lead to until the Ingest is closed.
// Of an index, what is not there is left out.
func (s *Store) Hold(ctx context.Context, purpose string, refs ...string) ([]Held, *Ingest, error) {
	x, err := s.readIndex()
	for _, ref := range refs { // before a store is created
		if err == nil {
			_, err = s.find(x, ref)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	g, err := s.BeginFor(ctx, purpose)
	if err != nil {
		return nil, nil, err
	}
	entries, err := g.hold(ctx, refs)
	if err != nil {
		g.Close()
		return nil, nil, err
	}
	return entries, g, nil
}

func (g *Ingest) hold(ctx context.Context, refs []string) ([]Held, error) {
	unlock, err := g.s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	x, err := g.s.readIndex()
	if err != nil {
		return nil, err
	}
	var entries []Held
	for _, ref := range refs {
		d, err := g.s.find(x, ref)
		if err != nil {
			return nil, err
		}
		m := newMarker(g.s.ReadBlob)
		if err := m.mark(*d); err != nil {
			return nil, fmt.Errorf("image %q: %w", clip(ref), err)
		}
		h := Held{Entry: *d, ByName: refersByName(ref, entryName(d)), Referrers: x.referrers(g.s.ReadBlob, m)}
		for d := range m.marked {
			err := g.Keep("blob", Descriptor{Digest: d})
			if _, missing := err.(*MissingError); err != nil && !missing {
				return nil, err
			}
		}
		entries = append(entries, h)
	}
	return entries, nil
}

// refersByName tells whether ref, which was found under name, is that name, or
// its repository with a digest, and no ID.
func refersByName(ref, name string) bool {
	p, err := ParseReference(ref)
	return name == ref || err == nil && (name == p.String() || p.Digest != "")
}

// Blobs are the digests of what the Ingest has, in order.
func (g *Ingest) Blobs() ([]Digest, error) {
	names, err := readNames(g.dir)
	if err != nil {
		return nil, err
	}
	var list []Digest
	for _, n := range names {
		if d, err := ParseDigest(strings.Replace(n, "-", ":", 1)); err == nil {
			list = append(list, d)
		}
	}
	slices.Sort(list)
	return list, nil
}

// BlobSize is the size of a blob that the Ingest or the store has.
func (g *Ingest) BlobSize(d Digest) (int64, error) {
	if err := d.Check(); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	err := unix.Lstat(g.blobPath(d), &st)
	if err == unix.ENOENT {
		err = unix.Lstat(g.s.blobPath(d), &st)
	}
	if err == unix.ENOENT {
		return 0, &MissingError{Object: "blob", Digest: d}
	}
	if err != nil {
		return 0, &os.PathError{Op: "stat", Path: g.blobPath(d), Err: err}
	}
	return st.Size, nil
}
