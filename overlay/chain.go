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

// formatParents is the reverse of parseParents.
func formatParents(ids []ChainID) []byte {
	var b []byte
	for _, c := range ids {
		b = append(b, c...)
		b = append(b, '\n')
	}
	return b
}
