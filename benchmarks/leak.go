package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// snapshot is what must be the same before and after.
type snapshot struct {
	mounts      []string // of the private namespace: nobody else changes them
	files       int      // our open descriptors
	controllers []string // enabled for the groups below the root
}

func takeSnapshot() (snapshot, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return snapshot{}, err
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return snapshot{}, err
	}
	var mounts []string
	for line := range strings.Lines(string(text)) {
		// Identity, parent, device, root, mount point: the rest may change with remounts.
		if f := strings.Fields(line); len(f) > 4 {
			mounts = append(mounts, strings.Join(f[:5], " "))
		}
	}
	return snapshot{mounts, len(files), enabled()}, nil
}

// enabled are the controllers that the root group has enabled for those below.
func enabled() []string {
	text, _ := os.ReadFile(cgroupMount + "/cgroup.subtree_control")
	return strings.Fields(string(text))
}

// disable takes back the controllers that a runtime has enabled in the root group, which is the host's. One that
// somebody else uses by now stays.
func disable(before []string) {
	for _, c := range enabled() {
		if !slices.Contains(before, c) {
			_ = os.WriteFile(cgroupMount+"/cgroup.subtree_control", []byte("-"+c), 0)
		}
	}
}

// leaks says what the runtimes left behind, and removes it: processes, mounts, control
// groups, state, descriptors. Each finding names the thing.
func (s *suite) leaks(before snapshot) []string {
	var found []string
	for _, pid := range children() {
		found = append(found, "process "+describe(pid))
	}
	if len(found) > 0 {
		// The children list is of this moment; whoever is still there after the timeout is killed.
		if err := s.h.reap(); err != nil {
			found = append(found, err.Error())
		}
	}
	after, err := takeSnapshot()
	if err != nil {
		return append(found, err.Error())
	}
	had := map[string]bool{}
	for _, m := range before.mounts {
		had[m] = true
	}
	for _, m := range after.mounts {
		if !had[m] {
			found = append(found, "mount "+m)
		}
	}
	if after.files != before.files {
		found = append(found, fmt.Sprintf("%d open descriptors, %d before", after.files, before.files))
	}
	for _, p := range s.peers {
		entries, err := os.ReadDir(p.state())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, err.Error())
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), s.tag) {
				found = append(found, "state "+filepath.Join(p.name, e.Name()))
			}
		}
	}
	groups, err := s.groups()
	if err != nil {
		found = append(found, err.Error())
	}
	for _, g := range groups {
		if g == filepath.Join(cgroupMount, s.tag) {
			continue // our own parent
		}
		found = append(found, "cgroup "+strings.TrimPrefix(g, cgroupMount))
	}
	// Deepest first, because they were found in walking order.
	for i := len(groups) - 1; i >= 0; i-- {
		_ = os.WriteFile(filepath.Join(groups[i], "cgroup.kill"), []byte("1"), 0)
		if err := os.Remove(groups[i]); err != nil {
			found = append(found, "cgroup stays: "+err.Error())
		}
	}
	disable(before.controllers)
	return found
}

// groups lists the control groups whose path has our tag, parents before children.
func (s *suite) groups() ([]string, error) {
	var groups []string
	err := filepath.WalkDir(cgroupMount, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // someone else's, gone meanwhile
		case err != nil:
			return err
		case d.IsDir() && strings.Contains(path, s.tag):
			groups = append(groups, path)
		}
		return nil
	})
	return groups, err
}
