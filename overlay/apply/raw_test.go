package apply

import (
	"bytes"
	"fmt"
	"strconv"
)

// What archive/tar refuses to write is made by hand here.

// rawHeader is a ustar header block.
func rawHeader(name string, typ byte, size int64, linkname string) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], "00000000000\x00")
	b[156] = typ
	copy(b[157:257], linkname)
	copy(b[257:], "ustar\x0000")
	sum := 0
	copy(b[148:], "        ")
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// rawEntry is a header with its content, padded.
func rawEntry(name string, typ byte, body string) []byte {
	b := append(rawHeader(name, typ, int64(len(body)), ""), body...)
	return append(b, make([]byte, (512-len(b)%512)%512)...)
}

// rawPAX is a PAX header (type x or g) with the records key, value, ...
func rawPAX(typ byte, kv ...string) []byte {
	var b bytes.Buffer
	for i := 0; i < len(kv); i += 2 {
		rest := " " + kv[i] + "=" + kv[i+1] + "\n"
		n := len(rest) + 1
		for len(strconv.Itoa(n))+len(rest) != n {
			n = len(strconv.Itoa(n)) + len(rest)
		}
		b.WriteString(strconv.Itoa(n) + rest)
	}
	return rawEntry("pax", typ, b.String())
}

var rawEnd = make([]byte, 1024)

func raw(parts ...[]byte) []byte { return append(bytes.Join(parts, nil), rawEnd...) }
