package store

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Object is what is stored: one of the types of Kubernetes.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is a kind of objects.
type Kind struct {
	// Name is unique, "pods" or "deployments.apps".
	Name string
	New  func() Object
	// Secret ones are sealed on disk.
	Secret bool
	// Admit, if not nil, refuses an object, or changes it, before it is written;
	// old is what it replaces, or nil. It reads s while nobody else writes, so
	// what it finds free is free. It is not asked about a status.
	Admit func(s *Store, old, n Object) error
}

// Options of Open. The zero value is right, but for tests.
type Options struct {
	// Now is the clock; nil is the real one.
	Now func() time.Time
	// History is how many changes are kept for watches; 0 is 8192.
	History int
	// UID makes uids; nil makes random ones.
	UID func() types.UID
}

const (
	defaultHistory = 8192
	format         = 1
)

var (
	metaBucket    = []byte("meta")
	objectsBucket = []byte("objects")
	formatKey     = []byte("format")
	revisionKey   = []byte("revision")
	keyCheckKey   = []byte("key")
	keyCheck      = []byte("minirun store")
)

// Store is an open store. Its methods may be called at the same time.
type Store struct {
	path  string
	db    *bolt.DB
	aead  cipher.AEAD
	now   func() time.Time
	uid   func() types.UID
	write sync.Mutex // held from reading what a write is based on to its end
	short bool       // the reserve is not whole; guarded by write

	mu       sync.RWMutex // guards what follows
	revision uint64
	kinds    map[string]*table
	owned    map[types.UID]map[Ref]bool // uid of an owner -> what it owns
	changes  ring
	pages    []page
	closed   bool
}

// table is the objects of one kind.
type table struct {
	Kind
	objects map[name]Object
}

type name struct{ namespace, name string }

// Ref names an object.
type Ref struct{ Kind, Namespace, Name string }

// Open opens the store in a file, or makes it. Its key is in path + ".key".
func Open(path string, kinds []Kind, o Options) (*Store, error) {
	s := &Store{path: path, now: o.Now, uid: o.UID, kinds: map[string]*table{}, owned: map[types.UID]map[Ref]bool{}}
	if s.now == nil {
		s.now = time.Now
	}
	if s.uid == nil {
		s.uid = randomUID
	}
	if o.History == 0 {
		o.History = defaultHistory
	}
	s.changes.init(o.History)
	for _, k := range kinds {
		s.kinds[k.Name] = &table{Kind: k, objects: map[name]Object{}}
	}
	st, err := os.Stat(path)
	fresh := errors.Is(err, os.ErrNotExist) || err == nil && st.Size() == 0
	if err != nil && !fresh {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.aead, err = openKey(path+".key", fresh); err != nil {
		return nil, err
	}
	if s.db, err = openFile(path, false); err != nil {
		return nil, err
	}
	if err := s.load(func(t *table, obj Object) { s.put(t, nil, obj) }); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.reserve()
	return s, nil
}

// Close ends the store, and all watches with it.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	s.closed = true
	s.changes.wake()
	s.mu.Unlock()
	return s.db.Close()
}

// openPatience is how long the file may stay locked after the end of who had it open: a
// child that it was just starting has its descriptors until it executes a program.
const openPatience = 5 * time.Second

// openFile opens a file after a look at it that bbolt does not take.
func openFile(path string, readOnly bool) (db *bolt.DB, err error) {
	switch err := look(path); {
	case errors.Is(err, errOpen):
		return nil, fmt.Errorf("open store %q: %w", path, err)
	case err != nil:
		return nil, &CorruptError{path, err}
	}
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: openPatience, ReadOnly: readOnly, FreelistType: bolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open store %q: %w", path, errOpen)
	case errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch):
		return nil, &CorruptError{path, err}
	case err != nil:
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	return db, nil
}

// careful runs f and makes an error of a panic and of a fault: the file is
// mapped, so a disk that cannot be read is one.
func careful(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read: %v", r)
		}
	}()
	return f()
}

// load reads everything, hands it to take, and writes the beginning of a new store.
func (s *Store) load(take func(*table, Object)) error {
	fresh := false
	err := careful(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			k, _ := tx.Cursor().First()
			if fresh = k == nil; fresh {
				return nil
			}
			return s.read(tx, take)
		})
	})
	var key *KeyError
	switch {
	case errors.As(err, &key), errors.Is(err, errFormat), errors.Is(err, errKind):
		return err
	case err != nil:
		return &CorruptError{s.path, err}
	case !fresh:
		return nil
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		_, err = tx.CreateBucketIfNotExists(objectsBucket)
		return errors.Join(err,
			meta.Put(formatKey, binary.BigEndian.AppendUint32([]byte{format}, checksum(formatKey, []byte{format}))),
			meta.Put(keyCheckKey, s.wrap(true, keyCheckKey, keyCheck)),
			putRevision(tx, 0))
	})
	if err != nil {
		return fmt.Errorf("make store %q: %w", s.path, err)
	}
	return nil
}

var (
	errFormat = errors.New("store has a format that this minirund does not know")
	errKind   = errors.New("store holds objects of a kind that this minirund does not know")
)

// read goes through what is in the file.
func (s *Store) read(tx *bolt.Tx, take func(*table, Object)) error {
	meta, objects := tx.Bucket(metaBucket), tx.Bucket(objectsBucket)
	if meta == nil || objects == nil {
		return errors.New("it lacks what every store has")
	}
	f := meta.Get(formatKey)
	if len(f) != 5 || binary.BigEndian.Uint32(f[1:]) != checksum(formatKey, f[:1]) {
		return errors.New("format: wrong checksum")
	}
	if f[0] != format {
		return fmt.Errorf("%w: %d, it reads %d", errFormat, f[0], format)
	}
	check, err := s.unwrap(true, keyCheckKey, meta.Get(keyCheckKey))
	if errors.Is(err, errChecksum) {
		return err
	}
	if err != nil || !bytes.Equal(check, keyCheck) {
		return &KeyError{s.path + ".key", errors.New("it is not the one that the store was written with")}
	}
	r := meta.Get(revisionKey)
	if len(r) != 12 || binary.BigEndian.Uint32(r[8:]) != checksum(revisionKey, r[:8]) {
		return errors.New("revision: wrong checksum")
	}
	s.revision = binary.BigEndian.Uint64(r)
	s.changes.start(s.revision)
	return objects.ForEach(func(kind, value []byte) error {
		if value != nil {
			return fmt.Errorf("%q is no kind", kind)
		}
		t := s.kinds[string(kind)]
		if t == nil {
			return fmt.Errorf("%w: %s", errKind, kind)
		}
		return objects.Bucket(kind).ForEach(func(k, v []byte) error {
			obj, err := s.decode(t, k, v)
			if err != nil {
				return fmt.Errorf("%s %q: %w", kind, bytes.ReplaceAll(k, []byte{0}, []byte{'/'}), err)
			}
			take(t, obj)
			return nil
		})
	})
}

func (s *Store) decode(t *table, k, v []byte) (Object, error) {
	text, err := s.unwrap(t.Secret, diskKey(t.Name, k), v)
	if err != nil {
		return nil, err
	}
	obj := t.New()
	return obj, json.Unmarshal(text, obj)
}

// diskKey is what a value is bound to.
func diskKey(kind string, k []byte) []byte { return append([]byte(kind+"\x00"), k...) }

func (n name) key() []byte { return []byte(n.namespace + "\x00" + n.name) }

func putRevision(tx *bolt.Tx, revision uint64) error {
	r := binary.BigEndian.AppendUint64(nil, revision)
	return tx.Bucket(metaBucket).Put(revisionKey, binary.BigEndian.AppendUint32(r, checksum(revisionKey, r)))
}

// randomUID is a random uuid.
func randomUID() types.UID {
	b := randomBytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}
