package overlay

import "strings"

// ChainID identifies a layer together with all layers below it: "sha256:" and 64
// lower-case hex digits. The empty ChainID is "nothing below". Defined in the
// OCI image-spec, config.md, "Layer ChainID".
type ChainID string

const (
	prefix  = "sha256:"
	hexSize = 64 // digits of a SHA-256

	parentsLine = len(prefix) + hexSize + 1 // of a parents file, the newline too
)

// Valid reports whether c has the form of a chain ID. Everything in this package
// checks that before c becomes part of a path.
func (c ChainID) Valid() bool {
	return ValidDigest(string(c))
}

// ValidDigest reports whether s is "sha256:" and 64 lower-case hex digits, the
// only algorithm whose layers this package takes.
func ValidDigest(s string) bool {
	if len(s) != len(prefix)+hexSize || !strings.HasPrefix(s, prefix) {
		return false
	}
	for i := len(prefix); i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func (c ChainID) hex() string { return string(c)[len(prefix):] }

// path is the layer's directory, relative to the store.
func (c ChainID) path() string { return "layers/" + c.hex() }

// parseParents reads the text of a parents file.
func parseParents(b []byte) ([]ChainID, bool) {
	if len(b)%parentsLine != 0 {
		return nil, false
	}
	ids := make([]ChainID, 0, len(b)/parentsLine)
	for ; len(b) > 0; b = b[parentsLine:] {
		c := ChainID(b[:parentsLine-1])
		if b[parentsLine-1] != '\n' || !c.Valid() {
			return nil, false
		}
		ids = append(ids, c)
	}
	return ids, true
}

// A snapshot says what it stands on in the target of a symbolic link. Nobody waits
// for the disk when a snapshot is made: a file would be there after a power cut, and
// empty or full of zeros. Links of less than 60 bytes are in the inode (ext4), and so
// in the same transaction as the name. Hence 43 digits of 6 bits, not 64 of 4.
const (
	linkDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" // RFC 4648, section 5
	linkSize   = (hexSize*4 + 5) / 6
	noParent   = "none"
)

// parentLink returns the target of a snapshot's link; "" stands on nothing.
func parentLink(c ChainID) string {
	if c == "" {
		return noParent
	}
	hex := c.hex()
	b := append(make([]byte, 0, len(prefix)+linkSize), prefix...)
	for i := range linkSize {
		v := 0
		for bit := 6 * i; bit < 6*i+6; bit++ {
			v <<= 1
			if bit < 4*hexSize {
				v |= hexValue(hex[bit/4]) >> (3 - bit%4) & 1
			}
		}
		b = append(b, linkDigits[v])
	}
	return string(b)
}

func hexValue(c byte) int {
	if c <= '9' {
		return int(c - '0')
	}
	return int(c-'a') + 10
}

// parseParentLink is the reverse of parentLink, and takes nothing else.
func parseParentLink(s string) ([]ChainID, bool) {
	if s == noParent {
		return nil, true
	}
	if len(s) != len(prefix)+linkSize || s[:len(prefix)] != prefix {
		return nil, false
	}
	b := append(make([]byte, 0, len(prefix)+hexSize), prefix...)
	v, bits := 0, 0
	for _, c := range []byte(s[len(prefix):]) {
		d := strings.IndexByte(linkDigits, c)
		if d < 0 {
			return nil, false
		}
		v, bits = v<<6|d, bits+6
		for bits >= 4 && len(b) < len(prefix)+hexSize {
			bits -= 4
			b = append(b, "0123456789abcdef"[v>>bits&15])
		}
		v &= 1<<bits - 1
	}
	return []ChainID{ChainID(b)}, v == 0
}

// formatParents is the reverse of parseParents.
func formatParents(ids []ChainID) []byte {
	var b []byte
	for _, c := range ids {
		b = append(b, c...)
		b = append(b, '\n')
	}
	return b
}
