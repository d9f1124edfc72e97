package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

const maxDepth = 32

// decode reads one JSON value into maps and slices. Unlike Unmarshal it takes no
// member twice, no name in another case, no bytes that are not UTF-8 and nothing
// behind the value: readers differ in what they make of those.
func decode(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON value")
	}
	return v, nil
}

func value(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	t, err := d.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		m := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			key := name.(string) // the decoder takes nothing else here
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("%q is there twice", key)
			}
			if m[key], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return m, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	}
	return t, nil
}

// object wants v to be an object with no other members than these.
func object(path string, v any, members ...string) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: want an object", path)
	}
next:
	for name := range m {
		for _, known := range members {
			if name == known {
				continue next
			}
		}
		return nil, fmt.Errorf("%s: %q is not known", path, name)
	}
	return m, nil
}

func text(path string, v any) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" {
		return "", fmt.Errorf("%s: want a string", path)
	}
	return s, nil
}
