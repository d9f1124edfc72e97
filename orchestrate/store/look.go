package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bbolt maps its file and trusts it: a page number that leads beyond the end, or
// a length that does, kills the process. So the whole file is looked through
// first, without bbolt, as a slice with bounds. That also finds two trees that
// share a page, and free pages that are in use, before a write makes them worse.
//
// A page has a header (number 8 bytes, flags 2, count 2, overflow 4), then
// elements, then what those point at, in the machine's byte order. The first two
// pages are meta pages; the valid one of the later transaction counts.
const (
	pageHeader   = 16
	branchHeader = 16 // position 4, length of the key 4, page 8
	leafHeader   = 16 // flags 4, position 4, length of the key 4, of the value 4
	bucketHeader = 16 // root page 8, sequence 8

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01

	noFreelist = 1<<64 - 1
)

var native = binary.NativeEndian

// look looks through a file that nobody has open. One that is empty or not there
// is fine.
func look(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lock(f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	// Not in the heap, which would stay as large as it has become, and no mapping of
	// the file: a disk that fails is an error and no signal.
	file, err := unix.Mmap(-1, 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { _ = unix.Munmap(file) }()
	if _, err := io.ReadFull(f, file); err != nil {
		return err
	}
	return walk(file)
}

var errOpen = errors.New("another process has it open")

// lock waits for whoever has the file open, for a second: it may be ending.
func lock(f *os.File) error {
	for end := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock: %w", err)
		}
		if time.Now().After(end) {
			return errOpen
		}
	}
}

// walker goes through the pages of a file.
type walker struct {
	file  []byte
	size  uint64 // of a page
	pages uint64 // how many the file claims to have
	seen  map[uint64]bool
}

func walk(file []byte) error {
	size := uint64(os.Getpagesize())
	var meta []byte
	for i := range uint64(2) {
		if uint64(len(file)) < (i+1)*size {
			continue
		}
		m := file[i*size+pageHeader:]
		h := fnv.New64a()
		h.Write(m[:56])
		if native.Uint32(m) != 0xED0CDAED || native.Uint32(m[4:]) != 2 || native.Uint64(m[56:]) != h.Sum64() {
			continue
		}
		if n := uint64(native.Uint32(m[8:])); n != size {
			return fmt.Errorf("pages of %d bytes, this machine has %d", n, size)
		}
		if meta == nil || native.Uint64(m[48:]) > native.Uint64(meta[48:]) {
			meta = m
		}
	}
	if meta == nil {
		return errors.New("it does not begin as a store does")
	}
	w := &walker{file: file, size: size, pages: native.Uint64(meta[40:]), seen: map[uint64]bool{0: true, 1: true}}
	if have := uint64(len(file)) / size; w.pages > have {
		return fmt.Errorf("it is cut off: %d pages of %d", have, w.pages)
	}
	if err := w.tree(native.Uint64(meta[16:]), 0); err != nil {
		return err
	}
	if list := native.Uint64(meta[32:]); list != noFreelist {
		return w.freelist(list)
	}
	return nil
}

// page is the bytes of a page with its overflow, which nobody else may have.
func (w *walker) page(id uint64) (p []byte, err error) {
	if id < 2 || id >= w.pages {
		return nil, fmt.Errorf("page %d of %d", id, w.pages)
	}
	p = w.file[id*w.size:]
	if got := native.Uint64(p); got != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, got)
	}
	n := uint64(native.Uint32(p[12:])) + 1
	if n > w.pages-id {
		return nil, fmt.Errorf("page %d has %d pages, and there are %d", id, n, w.pages)
	}
	for i := range n {
		if w.seen[id+i] {
			return nil, fmt.Errorf("page %d is used twice", id+i)
		}
		w.seen[id+i] = true
	}
	return p[:n*w.size], nil
}

// tree goes through the pages below one.
func (w *walker) tree(id uint64, depth int) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	return w.elements(p, id, depth)
}

// elements goes through what a page, or a bucket within a value, holds.
func (w *walker) elements(p []byte, id uint64, depth int) error {
	if depth > 64 {
		return fmt.Errorf("page %d: deeper than a tree can be", id)
	}
	if len(p) < pageHeader {
		return fmt.Errorf("page %d is cut off", id)
	}
	flags, count := native.Uint16(p[8:]), uint64(native.Uint16(p[10:]))
	if uint64(len(p)) < pageHeader+count*leafHeader {
		return fmt.Errorf("page %d: %d elements", id, count)
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*leafHeader
		e := p[at:]
		var pos, klen, vlen uint64
		switch flags {
		case branchPage:
			pos, klen = uint64(native.Uint32(e)), uint64(native.Uint32(e[4:]))
		case leafPage:
			pos, klen, vlen = uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		default:
			return fmt.Errorf("page %d is of kind %#x", id, flags)
		}
		if at+pos+klen+vlen > uint64(len(p)) || pos < leafHeader {
			return fmt.Errorf("page %d: element %d leads beyond it", id, i)
		}
		key := e[pos : pos+klen]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("page %d: keys are out of order", id)
		}
		last = key
		if flags == branchPage {
			if err := w.tree(native.Uint64(e[8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		if native.Uint32(e)&bucketLeaf == 0 {
			continue
		}
		value := e[pos+klen : pos+klen+vlen]
		if vlen < bucketHeader {
			return fmt.Errorf("page %d: bucket %q is cut off", id, key)
		}
		var err error
		if root := native.Uint64(value); root != 0 {
			err = w.tree(root, depth+1)
		} else {
			err = w.elements(value[bucketHeader:], id, depth+1)
		}
		if err != nil {
			return err
		}
	}
	if flags == branchPage && count == 0 {
		return fmt.Errorf("page %d has no children", id)
	}
	if flags != branchPage && flags != leafPage {
		return fmt.Errorf("page %d is of kind %#x", id, flags)
	}
	return nil
}

// freelist looks at the list of pages that a write may take.
func (w *walker) freelist(id uint64) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	if flags := native.Uint16(p[8:]); flags != freelistPage {
		return fmt.Errorf("page %d is no free list but of kind %#x", id, flags)
	}
	n, list := uint64(native.Uint16(p[10:])), p[pageHeader:]
	if n == 0xffff { // the number is the first entry then
		n, list = native.Uint64(list), list[8:]
	}
	if n > uint64(len(list))/8 {
		return fmt.Errorf("page %d: %d free pages", id, n)
	}
	for i := range n {
		free := native.Uint64(list[i*8:])
		if free < 2 || free >= w.pages || w.seen[free] {
			return fmt.Errorf("page %d is said to be free", free)
		}
		w.seen[free] = true
	}
	return nil
}
