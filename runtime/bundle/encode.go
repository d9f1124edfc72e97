package bundle

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/jsonread"
)

// AppendJSON appends s as encoding/json writes it indented with tabs, without
// the escaping of <, > and &. It refuses the blocks of other platforms, which
// it would lose.
func AppendJSON(dst []byte, s *specs.Spec) ([]byte, error) {
	if s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil {
		return dst, errors.New("write config.json: only the linux block is supported, not solaris, windows, vm, zos or freebsd")
	}
	return jsonread.AppendIndent(dst, encodeSpec(nil, s)), nil
}

func encodeSlice[T any](b []byte, s []T, encode func([]byte, *T) []byte) []byte {
	if s == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i := range s {
		b = encode(jsonread.AppendComma(b), &s[i])
	}
	return append(b, ']')
}

func encodeStrings[T ~string](b []byte, s []T) []byte {
	return encodeSlice(b, s, func(b []byte, v *T) []byte { return jsonread.AppendString(b, string(*v)) })
}

func encodeString(b []byte, v *string) []byte { return jsonread.AppendString(b, *v) }

func encodeUint32(b []byte, v *uint32) []byte { return jsonread.AppendUint(b, uint64(*v)) }

func encodeMap[T any](b []byte, m map[string]T, encode func([]byte, *T) []byte) []byte {
	if m == nil {
		return append(b, "null"...)
	}
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	b = append(b, '{')
	for _, key := range keys {
		v := m[key]
		b = encode(jsonread.AppendKey(b, key), &v)
	}
	return append(b, '}')
}
