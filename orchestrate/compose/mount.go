package compose

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// mount reads [SOURCE:]TARGET[:MODE] or a map.
func (s *service) mount(v value) {
	kind, source, target, ro := "", "", "", false
	if v.isMap() {
		v.each(func(key string, e value) {
			switch key {
			case "type":
				kind = e.str()
			case "source":
				source = e.str()
			case "target":
				target = e.str()
			case "read_only":
				ro = e.boolean()
			case "bind", "volume", "tmpfs", "consistency":
				e.note("it has no counterpart and is left out")
			default:
				v.unknown(key)
			}
		})
	} else {
		parts := strings.Split(v.str(), ":")
		switch len(parts) {
		case 1:
			target = parts[0]
		case 2, 3:
			source, target = parts[0], parts[1]
		default:
			v.fail("want [SOURCE:]TARGET[:MODE]")
			return
		}
		if len(parts) == 3 {
			for m := range strings.SplitSeq(parts[2], ",") {
				switch m {
				case "ro":
					ro = true
				case "rw", "z", "Z", "cached", "delegated", "consistent":
				default:
					v.fail("there is no mode %q", m)
				}
			}
		}
		kind = "volume"
		if strings.HasPrefix(source, ".") || strings.HasPrefix(source, "/") || strings.HasPrefix(source, "~") {
			kind = "bind"
		}
	}
	if !strings.HasPrefix(target, "/") {
		v.fail("the target %q is not absolute", target)
	}
	switch {
	case kind == "tmpfs":
		s.addMount(target, Object{"emptyDir": Object{"medium": "Memory"}}, ro, "")
	case kind == "bind":
		s.addMount(target, Object{"hostPath": Object{"path": s.c.path(source)}}, ro, "")
	case kind != "volume":
		v.fail("there is no type %q", kind)
	case source == "":
		s.addMount(target, Object{"emptyDir": Object{}}, ro, "")
	default:
		if !s.c.claims[source] {
			v.fail("the volume %q is not among those of the file", source)
		}
		s.addMount(target, Object{"persistentVolumeClaim": Object{"claimName": dns(source)}}, ro, "")
	}
}

// addMount mounts a volume; the same source is one volume.
func (s *service) addMount(target string, source Object, ro bool, sub string) {
	name := ""
	for _, v := range s.volumes {
		o := v.(Object)
		same := true
		for k, x := range source {
			same = same && k != "emptyDir" && fmt.Sprint(o[k]) == fmt.Sprint(x)
		}
		if same {
			name = o["name"].(string)
		}
	}
	if name == "" {
		name = fmt.Sprintf("v%d", len(s.volumes))
		v := Object{"name": name}
		maps.Copy(v, source)
		s.volumes = append(s.volumes, v)
	}
	m := Object{"name": name, "mountPath": target}
	if ro {
		m["readOnly"] = true
	}
	if sub != "" {
		m["subPath"] = sub
	}
	s.mounts = append(s.mounts, m)
}

func (s *service) mountContent(kind string, v value) {
	source, target := "", ""
	mode := int64(-1)
	if v.isMap() {
		v.each(func(key string, e value) {
			switch key {
			case "source":
				source = e.str()
			case "target":
				target = e.str()
			case "mode":
				n, err := strconv.ParseInt(strings.TrimPrefix(e.str(), "0o"), 8, 32)
				if err != nil {
					e.fail("want an octal number")
				}
				mode = n
			case "uid", "gid":
				e.note("it has no counterpart and is left out")
			default:
				v.unknown(key)
			}
		})
	} else {
		source = v.str()
	}
	if s.c.configs[kind+"/"+source] == nil {
		v.fail("%q is not among the %s of the file", source, kind)
	}
	if target == "" {
		target = "/" + source
		if kind == "secrets" {
			target = "/run/secrets/" + source
		}
	} else if kind == "secrets" && !strings.HasPrefix(target, "/") {
		target = "/run/secrets/" + target
	}
	volume := Object{"configMap": Object{"name": dns(source)}}
	if kind == "secrets" {
		volume = Object{"secret": Object{"secretName": dns(source)}}
	}
	if mode >= 0 {
		for _, x := range volume {
			x.(Object)["defaultMode"] = mode
		}
	}
	s.addMount(target, volume, true, source)
}
