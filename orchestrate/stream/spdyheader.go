package stream

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"strings"
)

// Headers of SPDY are packed with zlib, all of one direction as one stream that is
// flushed after each, with a dictionary that both sides know: words with their
// lengths in four bytes in front, then text (SPDY Protocol, draft 3.1, 2.6.10.1).
func dictionary() []byte {
	const words = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection " +
		"content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag expect expires from host if-match " +
		"if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer " +
		"retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200|OK version HTTP/1.1 url public " +
		"set-cookie keep-alive origin"
	const text = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently" +
		"400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct " +
		"Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain," +
		"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
	var d []byte
	for w := range strings.SplitSeq(words, " ") {
		d = appendText(d, strings.ReplaceAll(w, "|", " "))
	}
	return append(d, text...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// Bounds of what a header may be when it is unpacked.
const (
	maxFields = 64
	maxHeader = 32 << 10
)

// unpacker reads headers. The zero value is one.
type unpacker struct {
	block bytes.Reader
	z     io.Reader
}

// read reads the header in a block.
func (u *unpacker) read(block []byte) (map[string]string, error) {
	u.block.Reset(block)
	if u.z == nil {
		z, err := zlib.NewReaderDict(&u.block, dictionary())
		if err != nil {
			return nil, errSPDY
		}
		u.z = z
	}
	left := maxHeader
	number := func() (int, bool) {
		var b [4]byte
		if _, err := io.ReadFull(u.z, b[:]); err != nil {
			return 0, false
		}
		n := binary.BigEndian.Uint32(b[:])
		return int(n), int64(n) <= int64(left)
	}
	text := func() (string, bool) {
		n, ok := number()
		if !ok {
			return "", false
		}
		left -= n
		b := make([]byte, n)
		_, err := io.ReadFull(u.z, b)
		return string(b), err == nil
	}
	fields, ok := number()
	if !ok || fields > maxFields {
		return nil, errSPDY
	}
	h := map[string]string{}
	for range fields {
		name, ok := text()
		if !ok {
			return nil, errSPDY
		}
		if h[strings.ToLower(name)], ok = text(); !ok {
			return nil, errSPDY
		}
	}
	if u.block.Len() > 0 {
		return nil, errSPDY
	}
	return h, nil
}

// packer writes headers. The zero value is one. What it writes is not smaller for
// it: there is little to win.
type packer struct {
	buf bytes.Buffer
	z   *zlib.Writer
}

// block appends a header to b.
func (p *packer) block(b []byte, h map[string]string) []byte {
	if p.z == nil {
		// Its errors are those of its arguments, which are constant.
		p.z, _ = zlib.NewWriterLevelDict(&p.buf, zlib.NoCompression, dictionary())
	}
	text := binary.BigEndian.AppendUint32(nil, uint32(len(h)))
	for name, value := range h {
		text = appendText(appendText(text, strings.ToLower(name)), value)
	}
	p.buf.Reset()
	p.z.Write(text) // to memory
	p.z.Flush()
	return append(b, p.buf.Bytes()...)
}
