package doctor

import (
	"strconv"
	"strings"
)

const groupUsers = "User namespaces"

func (h *host) users() {
	name := h.userName()
	for _, file := range [...]string{"/etc/subuid", "/etc/subgid"} {
		ranges, err := h.subordinate(file, name)
		const lost = "a rootless container has one id only: images with files of several users do not unpack"
		if len(ranges) > 0 {
			h.add(groupUsers, file, OK, false, strings.Join(ranges, ", "), "", "")
			continue
		}
		detail := "no line for " + name
		if err != nil {
			detail = "cannot be read"
		}
		h.add(groupUsers, file, Missing, false, detail, lost, "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "+name)
	}
	for _, program := range [...]string{"newuidmap", "newgidmap"} {
		if path := h.lookPath(program); path != "" {
			h.add(groupUsers, program, OK, false, path, "", "")
		} else {
			h.add(groupUsers, program, Missing, false, "not installed", "without root only one id can be mapped", "install the package uidmap (shadow-utils)")
		}
	}
}

// userName is the name of uid in /etc/passwd, or the number.
func (h *host) userName() string {
	uid := strconv.Itoa(h.uid)
	passwd, _ := h.read("/etc/passwd")
	for line := range strings.Lines(passwd) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == uid {
			return f[0]
		}
	}
	return uid
}

// subordinate returns the ranges "start-end" of the user in file, subuid(5).
func (h *host) subordinate(file, name string) (ranges []string, err error) {
	text, err := h.read(file)
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.Itoa(h.uid) {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			ranges = append(ranges, strconv.FormatUint(start, 10)+"-"+strconv.FormatUint(start+count-1, 10))
		}
	}
	return ranges, err
}
