package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const keySize = 32

// openKey reads the key file, or makes it when there is no store yet that
// could need the old one.
func openKey(path string, mayCreate bool) (cipher.AEAD, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if !mayCreate {
			return nil, &KeyError{path, errors.New("it is missing, and the store holds secrets that only it opens")}
		}
		if err := writeNew(path, randomBytes(keySize)); err != nil {
			return nil, &KeyError{path, err}
		}
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, &KeyError{path, err}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, &KeyError{path, err}
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 || !ok || int(sys.Uid) != os.Geteuid() {
		return nil, &KeyError{path, fmt.Errorf("it has mode %v and must be a file of mode 0600 that belongs to user %d", st.Mode(), os.Geteuid())}
	}
	key := make([]byte, keySize+1)
	if n, _ := f.Read(key); n != keySize {
		return nil, &KeyError{path, fmt.Errorf("it has not %d bytes", keySize)}
	}
	block, err := aes.NewCipher(key[:keySize])
	if err != nil {
		return nil, &KeyError{path, err}
	}
	return cipher.NewGCM(block)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// writeNew makes a file that is there whole, with its name, or not at all.
func writeNew(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(path)
}

// syncDir makes the names beside path durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// A value on disk is a byte that says how it is written, a checksum of the rest
// together with the key, and the object, sealed if the kind is secret.
const (
	plain  = 'p'
	sealed = 's'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// wrap makes the value for a key. The key is part of what is authenticated: a
// value is only good in its own place.
func (s *Store) wrap(secret bool, key, object []byte) []byte {
	form := byte(plain)
	if secret {
		form = sealed
		nonce := randomBytes(s.aead.NonceSize())
		object = s.aead.Seal(nonce, nonce, object, key)
	}
	out := make([]byte, 5, 5+len(object))
	out[0] = form
	binary.LittleEndian.PutUint32(out[1:], checksum(key, object))
	return append(out, object...)
}

var errChecksum = errors.New("wrong checksum")

func (s *Store) unwrap(secret bool, key, value []byte) ([]byte, error) {
	if len(value) < 5 || binary.LittleEndian.Uint32(value[1:]) != checksum(key, value[5:]) {
		return nil, errChecksum
	}
	form, object := value[0], value[5:]
	if form == plain && !secret {
		return object, nil
	}
	if form != sealed || !secret {
		return nil, fmt.Errorf("it is written as %q", form)
	}
	if len(object) < s.aead.NonceSize() {
		return nil, errors.New("it is too short")
	}
	n := s.aead.NonceSize()
	return s.aead.Open(nil, object[:n], object[n:], key)
}
