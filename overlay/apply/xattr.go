package apply

import (
	"archive/tar"
	"encoding/base64"
	"net/url"
	"sort"
	"strings"
)

const (
	paxSchily     = "SCHILY.xattr."
	paxLibarchive = "LIBARCHIVE.xattr."
)

func hasXattrs(hdr *tar.Header) bool {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, paxSchily) || strings.HasPrefix(key, paxLibarchive) {
			return true
		}
	}
	return false
}

// xattrs returns the extended attributes to set, sorted by name.
func (f *front) xattrs(hdr *tar.Header) ([]xattr, error) {
	if !hasXattrs(hdr) {
		return nil, nil
	}
	all := map[string]string{}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxLibarchive)
		if !ok {
			continue
		}
		name, err := url.PathUnescape(name)
		if err != nil {
			return nil, invalid("attribute name %q: %v", clip(name), err)
		}
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if err != nil {
			return nil, invalid("attribute %q: %v", clip(name), err)
		}
		all[name] = string(raw)
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxSchily); ok {
			all[name] = value
		}
	}
	size := 0
	var list []xattr
	for name, value := range all {
		if size += len(name) + 1 + len(value); size > maxXattr {
			return nil, limit("extended attributes of more than %d bytes", maxXattr)
		}
		keep, err := xattrAllowed(name)
		if err != nil {
			return nil, err
		}
		if keep {
			list = append(list, xattr{name, value})
		} else {
			f.warn("%q: attribute %q left out", clip(hdr.Name), clip(name))
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}

// xattrAllowed decides by name. Refused is what overlayfs would obey: a redirect
// or an opaque mark of the image's own could expose or hide files of other
// layers. Left out are labels of the host's security modules, and trusted.*,
// which no process in a container can see.
func xattrAllowed(name string) (bool, error) {
	switch {
	case name == "" || len(name) > 255 || strings.IndexByte(name, 0) >= 0:
		return false, invalid("attribute name of %d bytes", len(name))
	case strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay."):
		return false, invalid("attribute %q belongs to overlayfs", clip(name))
	case name == "security.capability", name == "system.posix_acl_access", name == "system.posix_acl_default":
		return true, nil
	case strings.HasPrefix(name, "user.") && len(name) > len("user."):
		return true, nil
	}
	return false, nil
}
