package compose

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Object is an object as JSON has it.
type Object = map[string]any

// Options say where a file comes from.
type Options struct {
	// Dir is the directory of the file: relative paths begin there.
	Dir string
	// Env looks up variables, File reads a file that the Compose file names.
	Env  func(name string) (string, bool)
	File func(path string) ([]byte, error)
}

// claimSize is how much a named volume asks for: Compose does not say.
const claimSize = "1Gi"

// converter is one conversion.
type converter struct {
	reader
	o       Options
	out     []Object
	claims  map[string]bool
	configs map[string]Object // by "configs/NAME" or "secrets/NAME"
}

// Convert makes objects of a Compose file. notes are what has no counterpart. Errors
// come all together.
func Convert(text []byte, o Options) (objects []Object, notes []string, err error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil, nil, errors.New("the file is empty")
	}
	c := &converter{o: o, claims: map[string]bool{}, configs: map[string]Object{}}
	c.env, c.file = o.Env, o.File
	top := value{&c.reader, resolved(doc.Content[0]), ""}
	var services value
	top.each(func(key string, v value) {
		switch key {
		case "services":
			services = v
		case "version", "name":
		case "networks":
			v.note("all pods are in one network")
		case "volumes":
			v.each(func(name string, e value) { c.volume(name, e) })
		case "configs", "secrets":
			v.each(func(name string, e value) { c.content(key, name, e) })
		default:
			if !strings.HasPrefix(key, "x-") {
				top.unknown(key)
			}
		}
	})
	if services.n == nil {
		top.fail("there are no services")
	} else {
		services.each(func(name string, v value) { c.service(name, v) })
	}
	return c.out, c.notes, errors.Join(c.errs...)
}

func (c *converter) add(o Object) { c.out = append(c.out, o) }

func object(version, kind, name string, labels Object, rest Object) Object {
	meta := Object{"name": name}
	if labels != nil {
		meta["labels"] = labels
	}
	o := Object{"apiVersion": version, "kind": kind, "metadata": meta}
	maps.Copy(o, rest)
	return o
}

func (c *converter) volume(name string, v value) {
	c.claims[name] = true
	v.each(func(key string, e value) {
		switch key {
		case "driver", "driver_opts", "labels", "name":
			e.note("it does not matter to a claim")
		case "external":
			e.note("the claim must exist")
		default:
			v.unknown(key)
		}
	})
	c.add(object("v1", "PersistentVolumeClaim", dns(name), nil, Object{"spec": Object{
		"accessModes": []any{"ReadWriteOnce"}, "resources": Object{"requests": Object{"storage": claimSize}},
	}}))
}

// dns makes a name that objects can have.
func dns(s string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		}
		return '-'
	}, s), "-.")
}

// content makes a ConfigMap or a Secret of one file.
func (c *converter) content(kind, name string, v value) {
	var data []byte
	have := false
	v.each(func(key string, e value) {
		var err error
		switch key {
		case "file":
			if data, err = c.file(c.path(e.str())); err != nil {
				e.fail("%w", err)
			}
		case "content":
			data = []byte(e.str())
		case "environment":
			s, ok := c.env(e.str())
			if !ok {
				e.fail("the variable %s is not set", e.str())
			}
			data = []byte(s)
		case "name":
			return
		case "external":
			e.fail("external is not supported: name a file")
		default:
			v.unknown(key)
		}
		have = true
	})
	if !have {
		v.fail("want file, content or environment")
	}
	text := base64.StdEncoding.EncodeToString(data)
	o := object("v1", "ConfigMap", dns(name), nil, Object{"binaryData": Object{name: text}})
	if kind == "secrets" {
		o = object("v1", "Secret", dns(name), nil, Object{"data": Object{name: text}})
	} else if s := string(data); strings.ToValidUTF8(s, "") == s {
		o = object("v1", "ConfigMap", dns(name), nil, Object{"data": Object{name: s}})
	}
	c.configs[kind+"/"+name] = o
	c.add(o)
}

// path makes one of the file absolute.
func (c *converter) path(p string) string {
	if strings.HasPrefix(p, "~") {
		if home, ok := c.env("HOME"); ok {
			p = home + p[1:]
		}
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(c.o.Dir, p)
	}
	return p
}

// service is one that is being converted.
type service struct {
	c         *converter
	name      string
	container Object
	pod       Object
	replicas  int64
	restart   string
	env       map[string]string
	files     map[string]string // of env_file
	ports     []Object          // of the Service
	hostPorts bool
	volumes   []any
	mounts    []any
	security  Object
	notes     Object // annotations
}

func (c *converter) service(name string, v value) {
	s := &service{
		c: c, name: dns(name), container: Object{"name": dns(name)}, pod: Object{}, replicas: 1, restart: "always", env: map[string]string{}, files: map[string]string{},
		security: Object{}, notes: Object{},
	}
	v.each(func(key string, e value) { s.key(v, key, e) })
	if s.container["image"] == nil {
		v.fail("there is no image")
	}
	maps.Copy(s.files, s.env) // what environment says is stronger
	if len(s.files) > 0 {
		var list []any
		for _, k := range slices.Sorted(maps.Keys(s.files)) {
			list = append(list, Object{"name": k, "value": s.files[k]})
		}
		s.container["env"] = list
	}
	if len(s.mounts) > 0 {
		s.container["volumeMounts"] = s.mounts
	}
	if len(s.volumes) > 0 {
		s.pod["volumes"] = s.volumes
	}
	if len(s.security) > 0 {
		s.container["securityContext"] = s.security
	}
	s.pod["containers"] = []any{s.container}
	s.finish(v)
}

func (s *service) finish(v value) {
	labels := Object{"app": s.name}
	meta := Object{"labels": labels}
	if len(s.notes) > 0 {
		meta["annotations"] = s.notes
	}
	template := Object{"metadata": meta, "spec": s.pod}
	if s.restart == "no" || s.restart == "on-failure" {
		s.pod["restartPolicy"] = map[string]string{"no": "Never", "on-failure": "OnFailure"}[s.restart]
		s.c.add(object("batch/v1", "Job", s.name, labels, Object{"spec": Object{"template": template}}))
	} else {
		spec := Object{"replicas": s.replicas, "selector": Object{"matchLabels": labels}, "template": template}
		if s.hostPorts {
			if s.replicas > 1 {
				v.fail("%d replicas cannot all have the same port of the host", s.replicas)
			}
			spec["strategy"] = Object{"type": "Recreate"} // the new pod needs the old one's port
		}
		s.c.add(object("apps/v1", "Deployment", s.name, labels, Object{"spec": spec}))
	}
	if len(s.ports) == 0 {
		return
	}
	var ports []any
	seen := map[string]bool{}
	for _, p := range s.ports {
		if name := p["name"].(string); !seen[name] {
			seen[name] = true
			ports = append(ports, p)
		}
	}
	s.c.add(object("v1", "Service", s.name, labels, Object{"spec": Object{"selector": labels, "ports": ports}}))
}

func anys(list []string) (out []any) {
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

func (s *service) key(v value, key string, e value) {
	c := s.container
	switch key {
	case "image":
		c["image"] = e.str()
	case "build":
		e.note("it is not built: the image must be there")
	case "command":
		if w := e.words(); len(w) > 0 {
			c["args"] = anys(w)
		}
	case "entrypoint":
		if w := e.words(); len(w) > 0 {
			c["command"] = anys(w)
		}
	case "environment":
		s.env = e.pairs()
	case "env_file":
		s.envFiles(e)
	case "ports":
		for _, p := range e.items() {
			s.port(p)
		}
	case "expose":
		for _, p := range e.items() {
			port, proto, _ := strings.Cut(p.str(), "/")
			s.addPort(p, port, "", proto, "")
		}
	case "volumes":
		for _, m := range e.items() {
			s.mount(m)
		}
	case "tmpfs":
		for _, p := range e.strings() {
			path, _, _ := strings.Cut(p, ":")
			s.addMount(path, Object{"emptyDir": Object{"medium": "Memory"}}, false, "")
		}
	case "configs", "secrets":
		for _, f := range e.items() {
			s.mountContent(key, f)
		}
	case "depends_on":
		e.note("nobody waits: the program has to try again until the other one is there")
	case "healthcheck":
		s.health(e)
	case "deploy":
		s.deploy(e)
	case "scale":
		s.replicas = e.integer()
	case "restart":
		r, _, _ := strings.Cut(e.str(), ":")
		if !one(r, "no", "always", "on-failure", "unless-stopped") {
			e.fail("want no, always, on-failure or unless-stopped")
		}
		s.restart = r
	case "networks", "network_mode", "links", "container_name", "pull_policy", "init", "logging", "platform", "profiles", "stop_signal", "ulimits", "ipc", "shm_size", "dns", "dns_search", "sysctls":
		s.other(key, e)
	case "hostname":
		s.pod["hostname"] = e.str()
	case "user":
		s.user(e)
	case "working_dir":
		c["workingDir"] = e.str()
	case "read_only":
		s.security["readOnlyRootFilesystem"] = e.boolean()
	case "privileged":
		s.security["privileged"] = e.boolean()
	case "cap_add", "cap_drop":
		caps, _ := s.security["capabilities"].(Object)
		if caps == nil {
			caps = Object{}
		}
		var list []any
		for _, x := range e.strings() {
			list = append(list, strings.TrimPrefix(x, "CAP_"))
		}
		caps[key[4:]] = list
		s.security["capabilities"] = caps
	case "tty":
		c["tty"] = e.boolean()
	case "stdin_open":
		c["stdin"] = e.boolean()
	case "stop_grace_period":
		s.pod["terminationGracePeriodSeconds"] = seconds(e)
	case "mem_limit":
		s.resource("limits", "memory", size(e))
	case "mem_reservation":
		s.resource("requests", "memory", size(e))
	case "cpus":
		s.resource("limits", "cpu", e.str())
	case "labels":
		for k, x := range e.pairs() {
			s.notes[k] = x
		}
	case "extra_hosts":
		s.hosts(e)
	default:
		if !strings.HasPrefix(key, "x-") {
			v.unknown(key)
		}
	}
}

// other are keys that mean nothing here, or only in one form.
func (s *service) other(key string, e value) {
	switch key {
	case "networks":
		e.note("all pods are in one network, where each service is reached by its name")
	case "network_mode":
		switch m := e.str(); m {
		case "host":
			s.pod["hostNetwork"] = true
		case "bridge":
		default:
			e.fail("%q has no counterpart; host has", m)
		}
	case "pull_policy":
		p := map[string]string{"always": "Always", "never": "Never", "missing": "IfNotPresent", "if_not_present": "IfNotPresent"}[e.str()]
		if p == "" {
			e.fail("want always, never or missing")
		}
		s.container["imagePullPolicy"] = p
	case "links", "container_name":
		e.note("a service is reached by its own name")
	case "profiles":
		e.note("the service is converted whatever its profile")
	default:
		e.note("it has no counterpart and is left out")
	}
}

func (s *service) envFiles(e value) {
	for _, f := range e.items() {
		path, required := "", true
		if f.isMap() {
			f.each(func(key string, x value) {
				switch key {
				case "path":
					path = x.str()
				case "required":
					required = x.boolean()
				default:
					f.unknown(key)
				}
			})
		} else {
			path = f.str()
		}
		text, err := s.c.file(s.c.path(path))
		if err != nil {
			if required {
				f.fail("%w", err)
			}
			continue
		}
		m, err := envFile(string(text))
		if err != nil {
			f.fail("%s: %w", path, err)
		}
		maps.Copy(s.files, m)
	}
}

func (s *service) resource(kind, name string, amount any) {
	r, _ := s.container["resources"].(Object)
	if r == nil {
		r = Object{}
		s.container["resources"] = r
	}
	l, _ := r[kind].(Object)
	if l == nil {
		l = Object{}
		r[kind] = l
	}
	l[name] = amount
}

func (s *service) deploy(v value) {
	v.each(func(key string, e value) {
		switch key {
		case "replicas":
			s.replicas = e.integer()
		case "resources":
			e.each(func(kind string, r value) {
				to := map[string]string{"limits": "limits", "reservations": "requests"}[kind]
				if to == "" {
					e.unknown(kind)
					return
				}
				r.each(func(name string, x value) {
					switch name {
					case "cpus":
						s.resource(to, "cpu", x.str())
					case "memory":
						s.resource(to, "memory", size(x))
					default:
						r.unknown(name)
					}
				})
			})
		case "labels", "mode", "placement", "restart_policy", "update_config", "rollback_config", "endpoint_mode":
			e.note("it has no counterpart and is left out")
		default:
			v.unknown(key)
		}
	})
}

// size makes a quantity of 512m, 1g, 64kb or a number of bytes.
func size(v value) string {
	s := strings.ToLower(strings.TrimSpace(v.str()))
	i := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	unit := ""
	if i >= 0 {
		s, unit = s[:i], strings.TrimSpace(s[i:])
	}
	suffix, ok := map[string]string{"": "", "b": "", "k": "Ki", "kb": "Ki", "m": "Mi", "mb": "Mi", "g": "Gi", "gb": "Gi", "t": "Ti", "tb": "Ti"}[unit]
	if _, err := strconv.ParseFloat(s, 64); err != nil || !ok {
		v.fail("want a size such as 512m or 1g")
	}
	return s + suffix
}

// seconds makes a number of 1m30s, rounded up.
func seconds(v value) int64 {
	d, err := time.ParseDuration(v.str())
	if err != nil {
		v.fail("want a time such as 1m30s")
	}
	return int64((d + time.Second - 1) / time.Second)
}

func (s *service) user(v value) {
	user, group, hasGroup := strings.Cut(v.str(), ":")
	id := func(name, text string) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			v.fail("%q: users and groups are numbers here", text)
			return
		}
		s.security[name] = n
	}
	id("runAsUser", user)
	if hasGroup {
		id("runAsGroup", group)
	}
}

func (s *service) hosts(v value) {
	var list []any
	add := func(name, ip string) {
		if ip == "host-gateway" {
			v.fail("host-gateway has no counterpart")
		}
		list = append(list, Object{"ip": strings.Trim(ip, "[]"), "hostnames": []any{name}})
	}
	if v.isMap() {
		v.each(func(name string, e value) { add(name, e.str()) })
	} else {
		for _, e := range v.items() {
			name, ip, ok := strings.Cut(strings.Replace(e.str(), "=", ":", 1), ":")
			if !ok {
				e.fail("want NAME=ADDRESS")
			}
			add(name, ip)
		}
	}
	s.pod["hostAliases"] = list
}

func (s *service) health(v value) {
	probe := Object{"periodSeconds": int64(30), "timeoutSeconds": int64(30), "failureThreshold": int64(3)}
	off := false
	v.each(func(key string, e value) {
		switch key {
		case "test":
			if !e.isList() {
				probe["exec"] = Object{"command": []any{"/bin/sh", "-c", e.str()}}
				return
			}
			w := e.strings()
			switch {
			case len(w) == 1 && w[0] == "NONE":
				off = true
			case len(w) == 2 && w[0] == "CMD-SHELL":
				probe["exec"] = Object{"command": []any{"/bin/sh", "-c", w[1]}}
			case len(w) > 1 && w[0] == "CMD":
				probe["exec"] = Object{"command": anys(w[1:])}
			default:
				e.fail("want NONE, or CMD or CMD-SHELL and a command")
			}
		case "interval":
			probe["periodSeconds"] = seconds(e)
		case "timeout":
			probe["timeoutSeconds"] = seconds(e)
		case "retries":
			probe["failureThreshold"] = e.integer()
		case "start_period":
			probe["initialDelaySeconds"] = seconds(e)
		case "start_interval":
			e.note("it has no counterpart and is left out")
		case "disable":
			off = e.boolean()
		default:
			v.unknown(key)
		}
	})
	if off {
		return
	}
	if probe["exec"] == nil {
		v.fail("there is no test: that of the image is not known here")
	}
	s.container["readinessProbe"] = probe
}

// port reads [IP:][HOST:]PORT[/PROTOCOL] or a map.
func (s *service) port(v value) {
	if v.isMap() {
		target, published, proto, ip := "", "", "", ""
		v.each(func(key string, e value) {
			switch key {
			case "target":
				target = e.str()
			case "published":
				published = e.str()
			case "protocol":
				proto = e.str()
			case "host_ip":
				ip = e.str()
			case "mode", "name", "app_protocol":
			default:
				v.unknown(key)
			}
		})
		s.addPort(v, target, published, proto, ip)
		return
	}
	text, proto, _ := strings.Cut(v.str(), "/")
	i := strings.LastIndexByte(text, ':')
	target, host := text[i+1:], ""
	if i >= 0 {
		host = text[:i]
	}
	ip := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		ip, host = strings.Trim(host[:i], "[]"), host[i+1:]
	}
	s.addPort(v, target, host, proto, ip)
}

func (s *service) addPort(v value, target, published, proto, ip string) {
	ports := func(text string) (from, n int64) {
		a, b, isRange := strings.Cut(text, "-")
		if !isRange {
			b = a
		}
		x, err1 := strconv.ParseUint(a, 10, 16)
		y, err2 := strconv.ParseUint(b, 10, 16)
		if err1 != nil || err2 != nil || x == 0 || y < x || y-x > 1000 {
			v.fail("%q is no port", text)
			return 0, 0
		}
		return int64(x), int64(y-x) + 1
	}
	proto = strings.ToUpper(proto)
	if proto == "" {
		proto = "TCP"
	}
	if !one(proto, "TCP", "UDP", "SCTP") {
		v.fail("there is no protocol %q", proto)
	}
	first, n := ports(target)
	host := int64(0)
	if published != "" {
		var m int64
		if host, m = ports(published); m != n {
			v.fail("%q and %q are not equally many ports", published, target)
		}
	}
	list, _ := s.container["ports"].([]any)
	for i := range n {
		p := Object{"containerPort": first + i, "protocol": proto}
		if published != "" {
			p["hostPort"] = host + i
			if ip != "" {
				p["hostIP"] = ip
			}
			s.hostPorts = true
		}
		list = append(list, p)
		s.ports = append(s.ports, Object{"name": fmt.Sprintf("%s-%d", strings.ToLower(proto), first+i), "port": first + i, "targetPort": first + i, "protocol": proto})
	}
	s.container["ports"] = list
}
