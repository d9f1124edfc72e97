package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
	"k8s.io/apimachinery/pkg/types"
)

// keepBackups is how many there are beside the store.
const keepBackups = 3

// Backup writes a copy of the store beside it, reads the copy whole, and only
// then counts it as a backup: what cannot be read is none. The oldest beyond
// three go. Nothing is done when nothing has changed since the last one.
func (s *Store) Backup() (path string, err error) {
	s.write.Lock()
	defer s.write.Unlock()
	path = fmt.Sprintf("%s.backup-%020d", s.path, s.revision)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	tmp := s.path + ".copy"
	defer os.Remove(tmp)
	err = careful(func() error {
		return s.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(tmp, 0o600) })
	})
	if err == nil {
		err = syncFile(tmp)
	}
	if err == nil {
		err = s.verify(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		return "", fmt.Errorf("back up store %q: %w", s.path, err)
	}
	all, err := Backups(s.path)
	for _, old := range all[min(len(all), keepBackups):] {
		err = errors.Join(err, os.Remove(old))
	}
	return path, err
}

// verify reads a file as Open would.
func (s *Store) verify(path string) error {
	c := &Store{path: path, now: s.now, uid: s.uid, aead: s.aead, kinds: map[string]*table{}, owned: map[types.UID]map[Ref]bool{}}
	c.changes.init(1)
	for k, t := range s.kinds {
		c.kinds[k] = &table{Kind: t.Kind, objects: map[name]Object{}}
	}
	db, err := openFile(path, true)
	if err != nil {
		return err
	}
	c.db = db
	err = c.load(lookOnly)
	if err == nil && c.revision != s.revision {
		err = fmt.Errorf("the copy is of revision %d, not %d", c.revision, s.revision)
	}
	return errors.Join(err, db.Close())
}

// lookOnly is for load: it keeps nothing, so that a check of all objects takes no memory.
func lookOnly(*table, Object) {}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Backups names the backups of a store, newest first.
func Backups(path string) ([]string, error) {
	all, err := filepath.Glob(strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(path) + ".backup-*")
	slices.Sort(all) // the numbers have leading zeros
	slices.Reverse(all)
	return all, err
}

// Restore puts the newest backup that can be read in the place of a store that
// is not open. What was there stays, with the ending .damaged. What was written
// after the backup is lost.
func Restore(path string, kinds []Kind) (from string, err error) {
	all, err := Backups(path)
	if err != nil {
		return "", err
	}
	aead, err := openKey(path+".key", false)
	if err != nil {
		return "", err
	}
	unlock, err := lockDamaged(path)
	if err != nil {
		return "", err
	}
	defer unlock()
	var bad []error
	for _, b := range all {
		s := &Store{path: b, aead: aead, kinds: map[string]*table{}, owned: map[types.UID]map[Ref]bool{}}
		s.changes.init(1)
		for _, k := range kinds {
			s.kinds[k.Name] = &table{Kind: k, objects: map[name]Object{}}
		}
		if s.db, err = openFile(b, true); err == nil {
			err = errors.Join(s.load(lookOnly), s.db.Close())
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		return b, replace(path, b)
	}
	return "", errors.Join(append([]error{fmt.Errorf("restore store %q: there is no good backup", path)}, bad...)...)
}

// lockDamaged keeps off whoever has the file open, as bbolt does.
func lockDamaged(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("restore store %q: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// replace copies a backup into the store's place, which is never empty: the
// damaged file gets a second name, and the copy takes the first.
func replace(path, backup string) error {
	content, err := os.ReadFile(backup)
	if err != nil {
		return fmt.Errorf("restore store %q: %w", path, err)
	}
	os.Remove(path + ".damaged")
	if err := os.Link(path, path+".damaged"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore store %q: %w", path, err)
	}
	if err := writeNew(path, content); err != nil {
		return fmt.Errorf("restore store %q: %w", path, err)
	}
	return nil
}
