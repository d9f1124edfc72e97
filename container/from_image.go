package container

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Options are what a user says about a container from an image, in the words
// of docker's flags.
type Options struct {
	Command     []string // replaces the image's Cmd
	Entrypoint  *string  // replaces the image's Entrypoint; empty: none
	Env         []string // NAME=VALUE
	WorkDir     string
	User        string // name or uid, and perhaps :group
	Hostname    string
	Terminal    bool
	ReadOnly    bool
	Privileged  bool
	HostNetwork bool
	NoNewPrivs  bool
	Seccomp     string   // "", "unconfined" or the path of an OCI or docker profile
	Volumes     []string // [SOURCE:]DESTINATION[:OPTIONS]
	Mounts      []string // type=...,src=...,dst=...
	Tmpfs       []string
	From        []userMount // see FromContainer
	place       func(*userMount) (string, error)
	CapAdd      []string
	CapDrop     []string
	Memory      int64 // bytes; 0: no limit
	CPUs        float64
	Pids        int64 // 0: no limit
	Size        int64 // bytes on disk that the container may write; 0: no limit
	CgroupPath  string
	UIDMap      []specs.LinuxIDMapping // a user namespace with these maps; empty: none
	GIDMap      []specs.LinuxIDMapping
	AutoMap     bool // one with ids that no other container has
	Disposable  bool // nobody wants what it has written when it has ended (--rm)
	root        string
	Net         NetworkOptions
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spec makes the configuration of a container from an image. id is the
// container's, root an open directory: the container's root, where names of
// users are looked up. What the image says is data: none of it becomes a path
// or a variable of the host.
func Spec(id string, image *unpacked.Image, root int, o *Options) (*specs.Spec, error) {
	cfg := &image.Config.Config
	args, err := command(image, o)
	if err != nil {
		return nil, err
	}
	for _, e := range cfg.Env {
		// Without "=" a variable would be taken from the host (CVE-2026-57231).
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return nil, fmt.Errorf("image %q: config.Env: %q is not NAME=VALUE", image.Name, e)
		}
	}
	asked, err := userMounts(cfg, o)
	if err != nil {
		return nil, err
	}
	userName := cfg.User
	if o.User != "" {
		userName = o.User
	}
	user, err := lookupUser(root, userName)
	if err != nil {
		return nil, err
	}
	hostname, err := hostnameFor(id, o)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(o)
	if err != nil {
		return nil, err
	}
	cwd := cfg.WorkingDir
	if o.WorkDir != "" {
		cwd = o.WorkDir
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: "rootfs", Readonly: o.ReadOnly},
		Hostname: hostname,
		Process: &specs.Process{
			Terminal: o.Terminal, User: user, Args: args, Cwd: filepath.Join("/", cwd),
			Env: env(cfg.Env, o.Env, hostname, o.Terminal), NoNewPrivileges: o.NoNewPrivs,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Annotations: annotations(image),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
			Resources:   resources(o),
			CgroupsPath: o.CgroupPath,
		},
	}
	if user.UID != 0 { // as execve(2) of a program without file capabilities leaves it
		s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = nil, nil
	}
	if len(o.UIDMap) > 0 {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = o.UIDMap, o.GIDMap
	} else if uids, gids := runtime.OwnIDs(); uids != nil {
		// One of its own, which the user can join from outside. Files need no mapping.
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = uids, gids
	}
	if !o.HostNetwork {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: o.Net.Namespace})
	}
	o.Net.annotate(s)
	if err := mounts(s, asked, o); err != nil {
		return nil, err
	}
	return s, confinement(s, caps, o)
}

// maxHostname is HOST_NAME_MAX of the kernel, in bytes; see gethostname(2).
const maxHostname = 64

// hostnameFor is the container's hostname: what the user says, the host's with
// the host's network, or else as much of the ID as a DNS label can have.
func hostnameFor(id string, o *Options) (string, error) {
	if len(o.Hostname) > maxHostname || strings.ContainsRune(o.Hostname, 0) {
		return "", fmt.Errorf("hostname %q: want at most %d bytes", o.Hostname, maxHostname)
	}
	if o.Hostname != "" {
		return o.Hostname, nil
	}
	if o.HostNetwork {
		if h, err := os.Hostname(); err == nil {
			return h, nil
		}
	}
	return id[:min(len(id), 63)], nil
}

// command is what runs: the entrypoint and what follows it (image-spec,
// conversion.md).
func command(image *unpacked.Image, o *Options) ([]string, error) {
	cfg := &image.Config.Config
	entrypoint, cmd := cfg.Entrypoint, cfg.Cmd
	if o.Entrypoint != nil {
		entrypoint, cmd = nil, nil
		if *o.Entrypoint != "" {
			entrypoint = []string{*o.Entrypoint}
		}
	}
	if len(o.Command) > 0 {
		cmd = o.Command
	}
	args := append(entrypoint[:len(entrypoint):len(entrypoint)], cmd...)
	if len(args) == 0 {
		return nil, &NoCommandError{image.Name}
	}
	return args, nil
}

// NoCommandError reports that neither the image nor the user says what to run.
type NoCommandError struct{ Image string }

func (e *NoCommandError) Error() string {
	return fmt.Sprintf("image %q has no command of its own", e.Image)
}

// Hint says what to do.
func (e *NoCommandError) Hint() string {
	return "give one after the container's ID: minirun run --image " + e.Image + " ID COMMAND"
}

func env(image, user []string, hostname string, terminal bool) []string {
	out := make([]string, 0, len(image)+len(user)+3)
	if !has(image, "PATH") && !has(user, "PATH") {
		out = append(out, defaultPath)
	}
	if !has(image, "HOSTNAME") && !has(user, "HOSTNAME") {
		out = append(out, "HOSTNAME="+hostname)
	}
	if terminal && !has(image, "TERM") && !has(user, "TERM") {
		out = append(out, "TERM=xterm")
	}
	return append(append(out, image...), user...)
}

func has(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

// Keys of the annotations that describe the image (image-spec, conversion.md).
const (
	annotationPrefix = "org.opencontainers.image."
	// StopSignal is the annotation with the signal that asks the container to end.
	StopSignal = annotationPrefix + "stopSignal"
	// ImageName and ImageManifest are the image that a container was made from:
	// what it was called, and the digest of its manifest.
	ImageName     = "io.minirun.image.name"
	ImageManifest = "io.minirun.image.manifest"
)

// annotations describe the image. A label wins over what we would say under the
// same key (image-spec, conversion.md), except where a key steers the runtime or
// other programs: no label has any say there.
func annotations(image *unpacked.Image) map[string]string {
	m := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			m[annotationPrefix+key] = value
		}
	}
	c := &image.Config
	set("os", c.OS)
	set("architecture", c.Architecture)
	set("variant", c.Variant)
	set("os.version", c.OSVersion)
	set("os.features", strings.Join(c.OSFeatures, ","))
	set("author", c.Author)
	set("created", c.Created)
	if len(c.Config.ExposedPorts) > 0 {
		ports := make([]string, 0, len(c.Config.ExposedPorts))
		for p := range c.Config.ExposedPorts {
			ports = append(ports, p)
		}
		sort.Strings(ports)
		set("exposedPorts", strings.Join(ports, ","))
	}
	for k, v := range c.Config.Labels {
		if !reserved(k) {
			m[k] = v
		}
	}
	if sig, err := runtime.ParseSignal(c.Config.StopSignal); err == nil && sig != 0 { // 0 stops nothing
		set("stopSignal", c.Config.StopSignal)
	}
	if image.Name != "" {
		m[ImageName] = image.Name
	}
	if image.Manifest != "" {
		m[ImageManifest] = string(image.Manifest)
	}
	return m
}

// reserved reports whether an annotation says something to a program rather than
// to people: to us, to crun and its kin, to systemd.
func reserved(key string) bool {
	return key == "" || key == StopSignal || strings.HasPrefix(key, "io.minirun.") || strings.HasPrefix(key, "run.oci.") ||
		strings.HasPrefix(key, "org.systemd.")
}
