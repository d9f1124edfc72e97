package bundle

import (
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/jsonread"
)

//go:generate go run ./internal/gen

// Parse decodes a config.json. The result, and which documents are errors,
// equal those of encoding/json with these exceptions: the solaris, windows, vm,
// zos and freebsd blocks are checked for syntax only and left nil; a member that
// is given twice and a byte that is not UTF-8 are errors; and strings point into
// raw, which must not change afterwards. An error is a *FieldError.
// A document that decodes may still make no sense, see [Validate].
func Parse(raw []byte) (*specs.Spec, error) {
	return parse(raw, ConfigFile, decodeSpec)
}

// ParseProcess decodes the process of an exec, as config.json has it under
// "process", under the rules of [Parse].
func ParseProcess(raw []byte) (*specs.Process, error) {
	return parse(raw, "process", decodeProcess)
}

// ParseResources decodes the resources of an update, as config.json has them
// under "linux.resources", under the rules of [Parse].
func ParseResources(raw []byte) (*specs.LinuxResources, error) {
	return parse(raw, "resources", decodeLinuxResources)
}

// ParseMounts decodes a list of mounts, as config.json has it under "mounts", or
// an object with such a list under that name, under the rules of [Parse].
func ParseMounts(raw []byte) ([]specs.Mount, error) {
	for _, c := range raw {
		switch c {
		case ' ', '\t', '\n', '\r':
			continue
		case '[':
			list, err := parse(raw, "mounts", func(r *jsonread.Reader, v *[]specs.Mount) { decodeSlice(r, v, decodeMount) })
			if err != nil {
				return nil, err
			}
			return *list, nil
		}
		break
	}
	s, err := parse(raw, "mounts", decodeSpec)
	if err != nil {
		return nil, err
	}
	return s.Mounts, nil
}

func parse[T any](raw []byte, file string, decode func(*jsonread.Reader, *T)) (*T, error) {
	if !utf8.Valid(raw) {
		return nil, notUTF8(file, raw)
	}
	r, v := jsonread.New(raw), new(T)
	decode(&r, v)
	if err := r.End(); err != nil {
		return nil, syntaxError(file, err)
	}
	return v, nil
}

// target returns what a pointer points to, allocated if needed; nil, also in
// *p, if the next value is null.
func target[T any](r *jsonread.Reader, p **T) *T {
	if r.Null() {
		*p = nil
	} else if *p == nil {
		*p = new(T)
	}
	return *p
}

// decodeSlice reads an array. When a key occurs twice, the elements of the
// second array are decoded over those of the first: so does encoding/json,
// down to elements that an array in between had cut off.
func decodeSlice[T any](r *jsonread.Reader, p *[]T, decode func(*jsonread.Reader, *T)) {
	if r.Null() {
		*p = nil
		return
	}
	s, n := *p, 0
	for ok := r.Array(); ok; ok = r.NextElem() {
		if n < cap(s) {
			s = s[:max(n+1, len(s))]
		} else {
			var zero T
			s = append(s, zero)
		}
		decode(r, &s[n])
		n++
	}
	if n == 0 {
		s = []T{}
	}
	*p = s[:n]
}

// decodeStrings is decodeSlice for strings of any name, of which a seccomp
// profile has hundreds: the room is allocated at once.
func decodeStrings[T ~string](r *jsonread.Reader, p *[]T) {
	if r.Null() {
		*p = nil
		return
	}
	s, n := *p, 0
	for ok := r.Array(); ok; ok = r.NextElem() {
		if s == nil {
			s = make([]T, 0, r.LenHint())
		}
		if n < cap(s) {
			s = s[:max(n+1, len(s))]
		} else {
			s = append(s, "")
		}
		v := string(s[n])
		r.String(&v)
		s[n] = T(v)
		n++
	}
	if n == 0 {
		s = []T{}
	}
	*p = s[:n]
}

// decodeMap reads an object. Of a key that occurs twice the last value counts;
// of a map that occurs twice all keys.
func decodeMap[T any](r *jsonread.Reader, p *map[string]T, decode func(*jsonread.Reader, *T)) {
	if r.Null() {
		*p = nil
		return
	}
	if *p == nil {
		*p = map[string]T{}
	}
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		if _, twice := (*p)[key]; twice {
			r.Twice()
		}
		var v T
		decode(r, &v)
		(*p)[key] = v
	}
}
