package vm

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// Disk is a disk for a guest whose power can be cut. It has a cache that is lost
// then: of what was written since the last flush, a random part never got there.
// QEMU reaches it as a network block device (the NBD protocol) at a socket.
type Disk struct {
	Path string // of the file with the content

	l    net.Listener
	mu   sync.Mutex
	f    *os.File
	size int64
	// unflushed are the writes since the last flush, in order.
	unflushed []diskWrite
	conns     sync.WaitGroup
}

type diskWrite struct {
	off      int64
	old, new []byte
}

// NewDisk makes an empty disk of size bytes in the file at path, served at
// path.sock.
func NewDisk(path string, size int64) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	l, err := net.Listen("unix", path+".sock")
	if err != nil {
		f.Close()
		return nil, err
	}
	d := &Disk{Path: path, l: l, f: f, size: size}
	d.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.conns.Go(func() {
				defer c.Close()
				_ = d.serve(c) // ends when QEMU does
			})
		}
	})
	return d, nil
}

// drive is QEMU's name of the disk.
func (d *Disk) drive() string { return "nbd:unix:" + d.Path + ".sock" }

// Close ends the service. The guest must be gone.
func (d *Disk) Close() error {
	d.l.Close()
	d.conns.Wait()
	return d.f.Close()
}

// Cut is the end of the power, after the guest is gone: each write that was not
// flushed is kept, lost, or kept up to a sector, as a disk does that orders its writes
// anew. It returns how many there were and how many are lost.
func (d *Disk) Cut(r *rand.Rand) (unflushed, lost int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	const sector = 512
	for i := len(d.unflushed) - 1; i >= 0; i-- {
		if _, err := d.f.WriteAt(d.unflushed[i].old, d.unflushed[i].off); err != nil {
			return 0, 0, err
		}
	}
	share := []float64{0, 0.1, 0.5, 0.9, 1}[r.IntN(5)] // of what is lost
	for _, w := range d.unflushed {
		b := w.new
		switch {
		case r.Float64() < share:
			b = nil
			lost++
		case r.IntN(8) == 0 && share > 0 && share < 1:
			b = b[:r.IntN(len(b)/sector+1)*sector]
		}
		if _, err := d.f.WriteAt(b, w.off); err != nil {
			return 0, 0, err
		}
	}
	unflushed = len(d.unflushed)
	d.unflushed = nil
	return unflushed, lost, nil
}

// The numbers of the protocol, github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
const (
	nbdMagic        = 0x4e42444d41474943 // NBDMAGIC
	nbdOption       = 0x49484156454f5054 // IHAVEOPT
	nbdOptionReply  = 0x3e889045565a9
	nbdRequest      = 0x25609513
	nbdReply        = 0x67446698
	nbdFixed        = 1 // handshake
	nbdOptExport    = 1
	nbdOptAbort     = 2
	nbdOptInfo      = 6
	nbdOptGo        = 7
	nbdRepAck       = 1
	nbdRepInfo      = 3
	nbdRepErrUnsup  = 1<<31 | 1
	nbdHasFlags     = 1
	nbdSendFlush    = 4
	nbdRead         = 0
	nbdWrite        = 1
	nbdDisconnect   = 2
	nbdFlush        = 3
	nbdInvalid      = 22
	nbdMaxRequest   = 64 << 20
	nbdTransmission = nbdHasFlags | nbdSendFlush
)

// serve speaks with one client.
func (d *Disk) serve(c net.Conn) error {
	put := func(fields ...any) error {
		var b []byte
		for _, f := range fields {
			var err error
			if b, err = binary.Append(b, binary.BigEndian, f); err != nil {
				return err
			}
		}
		_, err := c.Write(b)
		return err
	}
	if err := put(uint64(nbdMagic), uint64(nbdOption), uint16(nbdFixed)); err != nil {
		return err
	}
	var clientFlags uint32
	if err := binary.Read(c, binary.BigEndian, &clientFlags); err != nil {
		return err
	}
	for ready := false; !ready; {
		var o struct {
			Magic     uint64
			Opt, Size uint32
		}
		if err := binary.Read(c, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != nbdOption || o.Size > 1<<16 {
			return errors.New("nbd: no option")
		}
		if _, err := io.CopyN(io.Discard, c, int64(o.Size)); err != nil {
			return err
		}
		var err error
		reply := func(kind uint32, fields ...any) error {
			size := uint32(0)
			for _, f := range fields {
				size += uint32(binary.Size(f))
			}
			return put(append([]any{uint64(nbdOptionReply), o.Opt, kind, size}, fields...)...)
		}
		switch o.Opt {
		case nbdOptExport:
			err = put(uint64(d.size), uint16(nbdTransmission), [124]byte{})
			ready = true
		case nbdOptInfo, nbdOptGo:
			if err = reply(nbdRepInfo, uint16(0), uint64(d.size), uint16(nbdTransmission)); err == nil {
				err = reply(nbdRepAck)
			}
			ready = o.Opt == nbdOptGo
		case nbdOptAbort:
			return reply(nbdRepAck)
		default:
			err = reply(nbdRepErrUnsup)
		}
		if err != nil {
			return err
		}
	}
	for {
		var q struct {
			Magic       uint32
			Flags, Type uint16
			Handle      uint64
			Offset      uint64
			Size        uint32
		}
		if err := binary.Read(c, binary.BigEndian, &q); err != nil {
			return err
		}
		if q.Magic != nbdRequest || q.Size > nbdMaxRequest {
			return errors.New("nbd: no request")
		}
		var b []byte
		if q.Type == nbdWrite || q.Type == nbdRead {
			b = make([]byte, q.Size)
		}
		if q.Type == nbdWrite {
			if _, err := io.ReadFull(c, b); err != nil {
				return err // of a write that is not complete nothing happens
			}
		}
		status := uint32(0)
		switch q.Type {
		case nbdDisconnect:
			return nil
		case nbdRead, nbdWrite, nbdFlush:
			if err := d.do(q.Type, int64(q.Offset), b); err != nil {
				status = nbdInvalid
			}
		default:
			status = nbdInvalid
		}
		if q.Type != nbdRead || status != 0 {
			b = nil
		}
		if err := put(uint32(nbdReply), status, q.Handle, b); err != nil {
			return err
		}
	}
}

func (d *Disk) do(what uint16, off int64, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case what == nbdFlush:
		d.unflushed = nil
		return nil
	case off < 0 || off > d.size-int64(len(b)):
		return errors.New("beyond the end")
	case what == nbdRead:
		_, err := d.f.ReadAt(b, off)
		return err
	}
	old := make([]byte, len(b))
	if _, err := d.f.ReadAt(old, off); err != nil {
		return err
	}
	d.unflushed = append(d.unflushed, diskWrite{off, old, b})
	_, err := d.f.WriteAt(b, off)
	return err
}
