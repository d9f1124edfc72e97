package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// projectedSource is a volume of files from objects as a projected one; nil for
// any other volume.
func projectedSource(v *corev1.Volume) *corev1.ProjectedVolumeSource {
	switch {
	case v.Projected != nil:
		return v.Projected
	case v.ConfigMap != nil:
		return &corev1.ProjectedVolumeSource{DefaultMode: v.ConfigMap.DefaultMode, Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional,
		}}}}
	case v.Secret != nil:
		return &corev1.ProjectedVolumeSource{DefaultMode: v.Secret.DefaultMode, Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional,
		}}}}
	case v.DownwardAPI != nil:
		return &corev1.ProjectedVolumeSource{DefaultMode: v.DownwardAPI.DefaultMode, Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{
			Items: v.DownwardAPI.Items,
		}}}}
	}
	return nil
}

// projectedFile is one file of such a volume.
type projectedFile struct {
	path string
	mode os.FileMode
	data []byte
}

// projection are the files that the volume should have, sorted.
func projection(pod *corev1.Pod, p *corev1.ProjectedVolumeSource, src *sources) ([]projectedFile, error) {
	mode := os.FileMode(0o644)
	if p.DefaultMode != nil {
		mode = os.FileMode(*p.DefaultMode) & 0o777
	}
	files := map[string]projectedFile{}
	add := func(name string, m *int32, data []byte) error {
		clean := path.Clean(name)
		if name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || clean == "." || strings.HasPrefix(clean, "..") || strings.ContainsRune(name, 0) {
			return fmt.Errorf("path %q: want a relative path that does not begin with '..'", name)
		}
		f := projectedFile{clean, mode, data}
		if m != nil {
			f.mode = os.FileMode(*m) & 0o777
		}
		files[clean] = f
		return nil
	}
	keys := func(what, name string, items []corev1.KeyToPath, isOptional bool, all []string, value func(string) ([]byte, bool)) error {
		if len(items) == 0 {
			for _, k := range all {
				v, _ := value(k)
				if err := add(k, nil, v); err != nil {
					return err
				}
			}
			return nil
		}
		for _, item := range items {
			v, ok := value(item.Key)
			if !ok {
				if isOptional {
					continue
				}
				return fmt.Errorf("references non-existent %s key: %s", what, item.Key)
			}
			if err := add(item.Path, item.Mode, v); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range p.Sources {
		s := &p.Sources[i]
		switch {
		case s.ConfigMap != nil:
			m, err := src.configMap(s.ConfigMap.Name)
			if err != nil {
				return nil, err
			}
			if m == nil {
				if optional(s.ConfigMap.Optional) {
					continue
				}
				return nil, fmt.Errorf("configmap %q not found", s.ConfigMap.Name)
			}
			var all []string
			for k := range m.Data {
				all = append(all, k)
			}
			for k := range m.BinaryData {
				all = append(all, k)
			}
			err = keys("config", m.Name, s.ConfigMap.Items, optional(s.ConfigMap.Optional), all, func(k string) ([]byte, bool) {
				if v, ok := m.Data[k]; ok {
					return []byte(v), true
				}
				v, ok := m.BinaryData[k]
				return v, ok
			})
			if err != nil {
				return nil, err
			}
		case s.Secret != nil:
			m, err := src.secret(s.Secret.Name)
			if err != nil {
				return nil, err
			}
			if m == nil {
				if optional(s.Secret.Optional) {
					continue
				}
				return nil, fmt.Errorf("secret %q not found", s.Secret.Name)
			}
			var all []string
			for k := range m.Data {
				all = append(all, k)
			}
			err = keys("secret", m.Name, s.Secret.Items, optional(s.Secret.Optional), all, func(k string) ([]byte, bool) { v, ok := m.Data[k]; return v, ok })
			if err != nil {
				return nil, err
			}
		case s.DownwardAPI != nil:
			for _, item := range s.DownwardAPI.Items {
				var v string
				var err error
				switch {
				case item.FieldRef != nil:
					v, err = fieldValue(pod, item.FieldRef.FieldPath, src)
				case item.ResourceFieldRef != nil:
					of := findContainer(&pod.Spec, item.ResourceFieldRef.ContainerName)
					if of == nil {
						return nil, fmt.Errorf("container %q not found", item.ResourceFieldRef.ContainerName)
					}
					v, err = resourceValue(of, item.ResourceFieldRef, src.host)
				}
				if err == nil {
					err = add(item.Path, item.Mode, []byte(v))
				}
				if err != nil {
					return nil, err
				}
			}
		case s.ServiceAccountToken != nil:
			return nil, errors.New("serviceAccountToken: there are no tokens of service accounts here")
		default:
			return nil, errors.New("a source of the volume is not supported")
		}
	}
	list := make([]projectedFile, 0, len(files))
	for _, f := range files {
		list = append(list, f)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].path < list[j].path })
	return list, nil
}

// project writes a volume of files from objects. All of them change at once: the
// names lead through a link, ..data, to a directory that never changes.
func (w *worker) project(pod *corev1.Pod, v *corev1.Volume) error {
	src := w.n.sourcesFor(pod, w.rec.IPs)
	files, err := projection(pod, projectedSource(v), src)
	if err != nil {
		return err
	}
	gid := -1
	if g := fsGroup(pod); g != nil {
		gid = int(*g)
	}
	return writeProjection(filepath.Join(w.dir, secretsDir, v.Name), files, gid)
}

const dataLink = "..data"

// writeProjection makes dir have these files. Nobody but us writes there.
func writeProjection(dir string, files []projectedFile, gid int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != "" && same(filepath.Join(dir, old), files, gid) {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, "..")
	if err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		at := filepath.Join(fresh, f.path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, f.data, 0o600); err != nil {
			return err
		}
		mode := f.mode
		if gid >= 0 {
			mode |= 0o440
			if err := os.Chown(at, -1, gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(at, mode); err != nil {
			return err
		}
	}
	tmp := filepath.Join(dir, "..data_tmp")
	_ = os.Remove(tmp)
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	var tops []string
	for _, f := range files {
		top, _, _ := strings.Cut(f.path, "/")
		if !slices.Contains(tops, top) {
			tops = append(tops, top)
		}
	}
	for _, top := range tops {
		if err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return sweepProjection(dir, filepath.Base(fresh), tops)
}

// sweepProjection removes names and directories that are of no use any more.
func sweepProjection(dir, current string, tops []string) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != current && n != dataLink && !slices.Contains(tops, n) {
			if err := safepath.RemoveAllAt(fd, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// same tells whether a directory has these files and no others.
func same(dir string, files []projectedFile, gid int) bool {
	n := 0
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil || n != len(files) {
		return false
	}
	for _, f := range files {
		at := filepath.Join(dir, f.path)
		st, err := os.Lstat(at)
		mode := f.mode
		if gid >= 0 {
			mode |= 0o440
		}
		if err != nil || st.Mode() != mode || st.Size() != int64(len(f.data)) {
			return false
		}
		if have, err := os.ReadFile(at); err != nil || string(have) != string(f.data) {
			return false
		}
	}
	return true
}

// sourcesFor are the objects beside a pod that its containers read.
func (n *Node) sourcesFor(pod *corev1.Pod, ips []string) *sources {
	src := &sources{
		configMap: func(name string) (*corev1.ConfigMap, error) {
			return get[*corev1.ConfigMap](n, "configmaps", pod.Namespace, name)
		},
		secret: func(name string) (*corev1.Secret, error) {
			return get[*corev1.Secret](n, "secrets", pod.Namespace, name)
		},
		host: n.capacity, node: n.o.NodeName, podIPs: ips,
	}
	for _, ip := range n.hostIPs {
		src.hostIPs = append(src.hostIPs, ip.String())
	}
	return src
}
