package apply

import (
	"strings"
)

// cleanName returns an entry's name, or a hard link's target, without leading
// slash, "." and empty components; "" is the root. Names with ".." are refused:
// what they mean depends on links, unpackers disagree, and archives made by
// tools have none.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", limit("name of %d bytes, limit is %d", len(name), maxName)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", invalid("name with a NUL byte")
	}
	depth := 0
	clean := true
	for c := range strings.SplitSeq(name, "/") {
		switch {
		case c == "" || c == ".":
			clean = false
			continue
		case c == "..":
			return "", invalid("name with \"..\"")
		case len(c) > 255:
			return "", invalid("name with a component of %d bytes, limit is 255", len(c))
		}
		if depth++; depth > maxDepth {
			return "", limit("name with more than %d components", maxDepth)
		}
	}
	if clean {
		return name, nil
	}
	var b strings.Builder
	for c := range strings.SplitSeq(name, "/") {
		if c == "" || c == "." {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(c)
	}
	return b.String(), nil
}

// cut splits a clean name into directory and last component.
func cut(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

const (
	whPrefix = ".wh."
	whMeta   = ".wh..wh."     // aufs: not for us, except
	whOpaque = ".wh..wh..opq" // hide everything below
)

// checkWhiteout returns the name that the whiteout entry base hides.
func checkWhiteout(base string) (string, error) {
	name := base[len(whPrefix):]
	if name == "" || name == "." || name == ".." {
		return "", invalid("whiteout of %q", name)
	}
	return name, nil
}

// whiteoutInside reports whether a directory component of a clean name is
// reserved for whiteouts: no file can be there.
func whiteoutInside(dir string) bool {
	return strings.HasPrefix(dir, whPrefix) || strings.Contains(dir, "/"+whPrefix)
}
