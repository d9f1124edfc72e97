package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Survey is what the store holds and why, at one moment.
type Survey struct {
	Entries []Entry
	Blobs   []Object
	Leases  []Lease
	// Strays are paths in the store that are none of ours, relative to its root.
	Strays []string
	// Damaged says why it is not known what an image needs; nothing is removed then.
	Damaged error
}

// Object is one blob.
type Object struct {
	Digest Digest
	Size   int64
	Disk   int64 // bytes of its blocks
	// Why says what the object stays for: names, referrers. Empty: it goes.
	Why []string
	// Leases keep its bytes, not its name.
	Leases []string
	// Roots are the targets of the entries that lead to it.
	Roots []Digest
}

// Survey looks at everything while nobody can change it. It creates nothing.
func (s *Store) Survey(ctx context.Context) (*Survey, error) {
	if _, err := os.Lstat(s.path(layoutFile)); errors.Is(err, fs.ErrNotExist) {
		return &Survey{}, nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s.survey()
}

func (s *Store) survey() (*Survey, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	v := &Survey{Entries: s.entries(x)}
	why, roots, damaged := s.reasons(x)
	v.Damaged = damaged
	if v.Leases, err = s.leases(); err != nil {
		return nil, err
	}
	leased := map[Digest][]string{}
	for _, l := range v.Leases {
		for _, d := range l.Blobs {
			if l.Live {
				leased[d] = append(leased[d], l.String())
			}
		}
	}
	return v, s.eachBlob(func(d Digest, st *unix.Stat_t) error {
		v.Blobs = append(v.Blobs, Object{Digest: d, Size: st.Size, Disk: st.Blocks * 512, Why: why[d], Leases: leased[d], Roots: roots[d]})
		return nil
	}, func(stray string) { v.Strays = append(v.Strays, stray) })
}

// reasons tells for every blob which names need it, and which targets lead to it.
func (s *Store) reasons(x *Index) (why map[Digest][]string, roots map[Digest][]Digest, err error) {
	why, roots = map[Digest][]string{}, map[Digest][]Digest{}
	var damaged []error
	for _, d := range x.Manifests {
		reason := "name " + Familiar(entryName(&d))
		if entryName(&d) == "" {
			reason = "image " + d.Digest.Short() + " without a name"
			if subject := subjectOf(s.ReadBlob, d); subject != "" {
				reason = "referrer of " + subject.Short()
			}
		}
		m := newMarker(s.ReadBlob)
		root := d.Digest
		m.onMark = func(d Digest) {
			if !slices.Contains(why[d], reason) {
				why[d] = append(why[d], reason)
			}
			if !slices.Contains(roots[d], root) {
				roots[d] = append(roots[d], root)
			}
		}
		if err := m.mark(d); err != nil {
			damaged = append(damaged, fmt.Errorf("image %q: %w", entryName(&d), err))
		}
	}
	return why, roots, errors.Join(damaged...)
}

// eachBlob visits the files of blobs/ in order.
func (s *Store) eachBlob(f func(Digest, *unix.Stat_t) error, stray func(string)) error {
	algorithms, err := readNames(s.path(blobsDir))
	if err != nil {
		return err
	}
	slices.Sort(algorithms)
	for _, algorithm := range algorithms {
		if algorithm != "sha256" && algorithm != "sha512" {
			stray(blobsDir + "/" + algorithm)
			continue
		}
		names, err := readNames(s.path(blobsDir, algorithm))
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			d, err := ParseDigest(algorithm + ":" + name)
			var st unix.Stat_t
			if err == nil {
				err = unix.Lstat(s.blobPath(d), &st)
			}
			if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
				stray(strings.Join([]string{blobsDir, algorithm, name}, "/"))
				continue
			}
			if err := f(d, &st); err != nil {
				return err
			}
		}
	}
	return nil
}
