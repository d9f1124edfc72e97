package jsonread

import "strconv"

// frame is one open object or array on the way to an offset.
type frame struct {
	array bool
	index int    // of the current element
	key   string // of the current member
	inKey bool   // a string here is a key
	value bool   // a key has been read, and it counts for the path
}

// walk follows the structure of b up to the offset, as far as it is
// well-formed, calling at (if not nil) with every position where a value
// starts. It returns the open objects and arrays.
func walk(b []byte, offset int, at func(stack []frame, value int)) []frame {
	var stack []frame
	for i := 0; i < offset; {
		c := b[i]
		top := (*frame)(nil)
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		starts := c == '{' || c == '[' || c == '"' || c == '-' || '0' <= c && c <= '9' || c == 't' || c == 'f' || c == 'n'
		if starts && at != nil && (top == nil || !top.inKey) {
			at(stack, i)
		}
		switch {
		case c == '{':
			stack = append(stack, frame{inKey: true})
		case c == '[':
			stack = append(stack, frame{array: true})
		case c == '}' || c == ']':
			if top != nil {
				stack = stack[:len(stack)-1]
			}
		case c == ',' && top != nil:
			if top.array {
				top.index++
			} else {
				top.inKey, top.value = true, false
			}
		case c == '"':
			end := i + 1
			for end < offset && b[end] != '"' {
				if b[end] == '\\' {
					end++
				}
				end++
			}
			if end < offset && top != nil && top.inKey {
				top.key, top.inKey, top.value = unquote(b[i+1:end]), false, true
			}
			i = end
		case starts: // a number or a word, to its end
			for i+1 < offset && isWord(b[i+1]) {
				i++
			}
		}
		i++
	}
	return stack
}

func isWord(c byte) bool {
	return c == '+' || c == '-' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// pathAt returns the JSON path of the value at or around an offset.
func pathAt(b []byte, offset int) string { return render(walk(b, offset, nil)) }

// maxPath is how many bytes of a path are shown: a hostile document nests deep.
const maxPath = 256

func render(stack []frame) string { return string(appendPath(nil, stack)) }

func appendPath(p []byte, stack []frame) []byte {
	for _, f := range stack {
		switch {
		case f.array:
			p = strconv.AppendInt(append(p, '['), int64(f.index), 10)
			p = append(p, ']')
		case f.value:
			p = AppendPathKey(p, f.key)
		}
		if len(p) > maxPath {
			return append(p[:maxPath], "..."...)
		}
	}
	return p
}

// AppendPathKey appends an object key to a JSON path: .key, or ["key"] if the
// key is not a plain name.
func AppendPathKey(path []byte, key string) []byte {
	plain := key != ""
	for i := range len(key) {
		c := key[i]
		plain = plain && (c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}
	if !plain {
		path = strconv.AppendQuote(append(path, '['), key)
		return append(path, ']')
	}
	if len(path) > 0 {
		path = append(path, '.')
	}
	return append(path, key...)
}

// Locate finds values by their paths, as errors write them, in a well-formed
// document: it sets every key of at to the offset of the value with that path
// and leaves those that are not there alone. Of a key that occurs twice it is
// the last, which is the one that counts.
func Locate(b []byte, at map[string]int) {
	var p []byte
	walk(b, len(b), func(stack []frame, value int) {
		p = appendPath(p[:0], stack)
		if _, wanted := at[string(p)]; wanted {
			at[string(p)] = value
		}
	})
}
