package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What people do wrong: each time one clear error, the right exit status, and
// nothing left behind, so that the next attempt works.
func TestRootBadInput(t *testing.T) {
	setup(t)
	set := func(path string, v any) func(map[string]any) {
		return func(m map[string]any) {
			keys := strings.Split(path, ".")
			for _, k := range keys[:len(keys)-1] {
				if m[k] == nil {
					m[k] = map[string]any{}
				}
				m = m[k].(map[string]any)
			}
			m[keys[len(keys)-1]] = v
		}
	}
	object := func(s string) (v any) {
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	mount := func(text string) func(map[string]any) {
		return func(m map[string]any) { m["mounts"] = append(m["mounts"].([]any), object(text)) }
	}
	args := func(a ...string) func(map[string]any) {
		return func(m map[string]any) { m["process"].(map[string]any)["args"] = a }
	}
	tests := []struct {
		name  string
		edit  func(config map[string]any) // of config.json
		files func(bundle string)         // other changes
		code  int
		texts []string // all in the error
	}{
		{name: "no args", edit: set("process.args", []string{}), texts: []string{"process.args", "empty"}},
		{name: "wrong type", edit: set("process.args", "sh"), texts: []string{"process.args", "config.json:"}},
		{name: "wrong type deep", edit: set("linux.resources.memory", object(`{"limit":"1G"}`)), texts: []string{"linux.resources.memory.limit", "config.json:"}},
		{name: "no root", edit: func(m map[string]any) { delete(m, "root") }, texts: []string{"root", "missing"}},
		{name: "no process", edit: func(m map[string]any) { delete(m, "process") }, texts: []string{"process"}},
		{name: "no version", edit: set("ociVersion", ""), texts: []string{"ociVersion"}},
		{name: "version 2", edit: set("ociVersion", "2.0.0"), texts: []string{"ociVersion", "2.0.0"}},
		{name: "relative cwd", edit: set("process.cwd", "tmp"), texts: []string{"process.cwd", "absolute"}},
		{name: "NUL in an argument", edit: args("sh", "a\x00b"), texts: []string{"process.args[1]", "NUL"}},
		{name: "missing rootfs", edit: set("root.path", "nothing"), texts: []string{"nothing", "no such file or directory"}},
		{name: "rootfs is a file", edit: set("root.path", "config.json"), texts: []string{"config.json", "not a directory"}},
		{name: "rootfs is a link", edit: set("root.path", "link"), files: func(b string) { _ = os.Symlink("rootfs", filepath.Join(b, "link")) }, texts: []string{"link", "symlink"}},
		{name: "missing executable", edit: args("nosuchprogram"), code: 127, texts: []string{`exec: "nosuchprogram": executable file not found in $PATH`}},
		{name: "missing executable with a path", edit: args("/no/such"), code: 127, texts: []string{`exec: "/no/such": stat /no/such: no such file or directory`}},
		{name: "a file on the way", edit: args("/etc/passwd/x"), code: 127, texts: []string{`"/etc/passwd/x"`, "not a directory"}},
		{name: "not executable", edit: args("/etc/passwd"), code: 126, texts: []string{`exec: "/etc/passwd": permission denied`}},
		{name: "a directory", edit: args("/etc"), code: 126, texts: []string{`exec: "/etc": is a directory`}},
		{name: "missing bind source", edit: mount(`{"destination":"/x","source":"/no/such/source","options":["bind"]}`), texts: []string{"/x", "/no/such/source", "no such file or directory"}},
		{name: "bind without source", edit: mount(`{"destination":"/x","options":["bind"]}`), texts: []string{"mounts[7].source", "bind"}},
		{name: "data on a bind", edit: mount(`{"destination":"/x","source":"/etc","options":["bind","size=1"]}`), texts: []string{"/x", "size=1"}},
		{name: "idmap of nothing", edit: mount(`{"destination":"/x","source":"/etc","options":["bind","idmap"]}`), texts: []string{"mounts[7].options", "/x", "user namespace", "uidMappings"}},
		{name: "idmap of proc", edit: mount(`{"destination":"/x","type":"proc","uidMappings":[{"size":1}],"gidMappings":[{"size":1}]}`), texts: []string{"mounts[7].uidMappings", "proc"}},
		{name: "half an idmap", edit: mount(`{"destination":"/x","source":"/etc","options":["bind"],"uidMappings":[{"size":1}]}`), texts: []string{"mounts[7]", "both uidMappings and gidMappings"}},
		{name: "idmap and its options", edit: mount(`{"destination":"/x","source":"/etc","options":["bind","idmap=uids=0-0"]}`), texts: []string{"mounts[7].options", "three numbers"}},
		{name: "remount with an idmap", edit: mount(`{"destination":"/x","options":["remount","idmap"]}`), texts: []string{"mounts[7].options", "remount"}},
		{name: "unknown mount option", edit: mount(`{"destination":"/tmp","type":"tmpfs","options":["nosuchoption"]}`), texts: []string{"/tmp", "nosuchoption"}},
		{name: "bad value of an option", edit: mount(`{"destination":"/tmp","type":"tmpfs","options":["size=banana"]}`), texts: []string{"/tmp", "size=banana"}},
		{name: "unknown file system", edit: mount(`{"destination":"/tmp","type":"nosuchfs"}`), texts: []string{"/tmp", "nosuchfs", "no such device"}},
		{name: "no type at all", edit: mount(`{"destination":"/tmp"}`), texts: []string{"/tmp", "type"}},
		{name: "mount inside /proc", edit: mount(`{"destination":"/proc/sys","source":"/etc","options":["bind"]}`), texts: []string{"/proc/sys", "inside /proc"}},
		{name: "mount inside /proc by dots", edit: mount(`{"destination":"/tmp/../proc/self","source":"/etc","options":["bind"]}`), texts: []string{"inside /proc"}},
		{name: "tmpfs on /proc", edit: mount(`{"destination":"/proc","type":"tmpfs"}`), texts: []string{"/proc", "procfs"}},
		{name: "file on a directory", edit: mount(`{"destination":"/etc","source":"/etc/passwd","options":["bind"]}`), texts: []string{"/etc", "directory"}},
		{name: "directory on a file", edit: mount(`{"destination":"/etc/passwd","source":"/etc","options":["bind"]}`), texts: []string{"/etc/passwd", "directory"}},
		{name: "memory limit", edit: set("linux.resources.memory", object(`{"limit":67108864}`)), texts: []string{"memory", "controller"}},
		{name: "pids limit", edit: set("linux.resources.pids", object(`{"limit":10}`)), texts: []string{"pids", "controller"}},
		{name: "cpu limit", edit: set("linux.resources.cpu", object(`{"quota":10000}`)), texts: []string{"cpu", "controller"}},
		{name: "raising a hard limit", edit: set("process.rlimits", object(`[{"type":"RLIMIT_NOFILE","soft":1000000,"hard":1000000}]`)), texts: []string{"RLIMIT_NOFILE", "operation not permitted", "hint:", "CAP_SYS_RESOURCE"}},
		{name: "unknown rlimit", edit: set("process.rlimits", object(`[{"type":"RLIMIT_NOSUCH","soft":1,"hard":1}]`)), texts: []string{"process.rlimits[0]", "RLIMIT_NOSUCH"}},
		{name: "lowering oom_score_adj", edit: set("process.oomScoreAdj", -999), texts: []string{"oomScoreAdj", "CAP_SYS_RESOURCE"}},
		{name: "missing namespace path", edit: set("linux.namespaces", object(`[{"type":"mount"},{"type":"uts"},{"type":"network","path":"/no/such/ns"}]`)), texts: []string{"/no/such/ns", "no such file or directory"}},
		{name: "namespace path of another type", edit: set("linux.namespaces", object(`[{"type":"mount"},{"type":"uts"},{"type":"network","path":"/proc/self/ns/uts"}]`)), texts: []string{"/proc/self/ns/uts"}},
		{name: "namespace path is no namespace", edit: set("linux.namespaces", object(`[{"type":"mount"},{"type":"uts"},{"type":"network","path":"/etc/passwd"}]`)), texts: []string{"/etc/passwd", "invalid argument"}},
		{name: "unknown namespace", edit: set("linux.namespaces", object(`[{"type":"mount"},{"type":"nosuch"}]`)), texts: []string{"linux.namespaces[1]", "nosuch"}},
		{name: "namespace twice", edit: set("linux.namespaces", object(`[{"type":"mount"},{"type":"mount"}]`)), texts: []string{"linux.namespaces[1]"}},
		{name: "no mount namespace", edit: set("linux", object(`{"namespaces":[{"type":"uts"}]}`)), texts: []string{"linux.namespaces", "mount namespace"}},
		{name: "hostname without uts", edit: set("linux.namespaces", object(`[{"type":"mount"}]`)), texts: []string{"hostname", "uts"}},
		{name: "user namespace without maps", edit: set("linux.namespaces", object(`[{"type":"mount"},{"type":"uts"},{"type":"user"}]`)), texts: []string{"uidMappings"}},
		{name: "cgroupsPath with dots", edit: set("linux.cgroupsPath", "/a/../../b"), texts: []string{"linux.cgroupsPath"}},
		{name: "hooks", edit: set("hooks", object(`{"prestart":[{"path":"bin/true"}],"poststop":[{"path":"/bin/true","timeout":0}]}`)), texts: []string{"hooks.prestart[0].path", "hooks.poststop[0].timeout"}},
		{name: "sysctl of the host", edit: set("linux.sysctl", object(`{"kernel.core_pattern":"x","net/../kernel/sysrq":"1"}`)), texts: []string{`linux.sysctl["kernel.core_pattern"]: is not of a namespace`, `linux.sysctl["net/../kernel/sysrq"]: is not the name`}},
		{name: "sysctl without its namespace", edit: set("linux", object(`{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"network","path":"/proc/self/ns/net"}],"sysctl":{"net.ipv4.ip_forward":"1","kernel.shmmax":"1","user.max_user_namespaces":"1"}}`)), texts: []string{`linux.sysctl["net.ipv4.ip_forward"]: needs a namespace`, `linux.sysctl["kernel.shmmax"]: needs a namespace`, `linux.sysctl["user.max_user_namespaces"]: needs a namespace`}},
		{name: "sysctl of the hostname", edit: set("linux.sysctl", object(`{"kernel.hostname":"x"}`)), texts: []string{`linux.sysctl["kernel.hostname"]`, "hostname of the configuration"}},
		{name: "intelRdt", edit: set("linux.intelRdt", object(`{"closID":"info","memBwSchema":"L3:0=f","schemata":["a\nb"]}`)), texts: []string{"linux.intelRdt.closID", "linux.intelRdt.memBwSchema", "linux.intelRdt.schemata[0]"}},
		{name: "personality", edit: set("linux.personality", object(`{"domain":"SOLARIS"}`)), texts: []string{"linux.personality.domain", `"SOLARIS"`}},
		{name: "memory policy", edit: set("linux.memoryPolicy", object(`{"mode":"MPOL_BIND"}`)), texts: []string{"linux.memoryPolicy.nodes", "needs one node"}},
		{name: "scheduler", edit: set("process.scheduler", object(`{"policy":"SCHED_BATCH","priority":5}`)), texts: []string{"process.scheduler.priority", "SCHED_FIFO or SCHED_RR only"}},
		{name: "ioPriority", edit: set("process.ioPriority", object(`{"class":"IOPRIO_CLASS_BE","priority":8}`)), texts: []string{"process.ioPriority.priority", "0 (highest) to 7"}},
		{name: "execCPUAffinity", edit: set("process.execCPUAffinity", object(`{"initial":"x","final":"9999"}`)), texts: []string{"process.execCPUAffinity.initial", "0-3,7", "process.execCPUAffinity.final", "8191"}},
		{name: "idmapped mount", edit: mount(`{"destination":"/x","source":"/etc","options":["bind","idmap"]}`), texts: []string{"/x", "idmap"}},
		{name: "unknown propagation", edit: set("linux.rootfsPropagation", "sideways"), texts: []string{"linux.rootfsPropagation", "sideways"}},
		{name: "device of an unknown type", edit: set("linux.devices", object(`[{"path":"/dev/x","type":"z","major":1,"minor":3}]`)), texts: []string{"linux.devices[0]", `"z"`}},
		{name: "unknown seccomp action", edit: set("linux.seccomp", object(`{"defaultAction":"SCMP_ACT_NOSUCH"}`)), texts: []string{"seccomp", "SCMP_ACT_NOSUCH"}},
		{name: "terminal without a console socket", edit: set("process.terminal", true), texts: []string{"console socket"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			change(t, b.bundle, tt.edit)
			if tt.files != nil {
				tt.files(b.bundle)
			}
			code := tt.code
			if code == 0 {
				code = 1
			}
			log := filepath.Join(t.TempDir(), "log")
			r := testenv.Run(t, "--log", log, "--log-format", "json", "create", "--bundle", b.bundle, b.id)
			if r.Code != code {
				t.Errorf("exit status %d, want %d", r.Code, code)
			}
			oneError(t, r.Stderr)
			for _, text := range tt.texts {
				if !strings.Contains(r.Stderr, text) {
					t.Errorf("no %q in %q", text, r.Stderr)
				}
			}
			if raw, _ := os.ReadFile(log); strings.Count(string(raw), "\n") != 1 || !strings.Contains(string(raw), `"level":"error"`) {
				t.Errorf("log %q, want one line of level error", raw)
			}
			b.gone()
			change(t, b.bundle, func(m map[string]any) { // and with a good configuration it works
				good := object(goodConfig(t, b.cgroup)).(map[string]any)
				for k := range m {
					delete(m, k)
				}
				for k, v := range good {
					m[k] = v
				}
			})
			b.create()
		})
	}
}

// oneError checks the form of an error: one line, and hints.
func oneError(t *testing.T, stderr string) {
	t.Helper()
	all := lines(stderr)
	if !strings.HasPrefix(all[0], "minirun: ") || len(all[0]) < 20 {
		t.Errorf("first line %q, want minirun: and a sentence", all[0])
	}
	for _, l := range all[1:] {
		if !strings.HasPrefix(l, "hint: ") {
			t.Errorf("line %q, want a hint", l)
		}
	}
}

func goodConfig(t *testing.T, cgroup string) string {
	s := testenv.DefaultSpec()
	s.Linux.CgroupsPath = cgroup
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// An error that only execve(2) can find comes at start, and run tells it as well.
func TestRootExecFormatError(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/bad"} })
	if err := os.WriteFile(b.rootfs("bin/bad"), []byte("\x7fELFnonsense"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.create()
	r := b.do("start")
	if r.Code != 126 || !strings.Contains(r.Stderr, "exec /bin/bad: exec format error") {
		t.Errorf("start: %+v, want exec format error and 126", r)
	}
	oneError(t, r.Stderr)
	b.stopped()
	b.must("delete")
	b.gone()
	r = b.run()
	if r.Code != 126 || !strings.Contains(r.Stderr, "exec format error") {
		t.Errorf("run: %+v", r)
	}
	b.gone()
	// A script whose interpreter is not there.
	if err := os.WriteFile(b.rootfs("bin/bad"), []byte("#!/no/such/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r = b.run()
	if r.Code != 127 || !strings.Contains(r.Stderr, "no such file or directory") {
		t.Errorf("run of a script without interpreter: %+v", r)
	}
	b.gone()
}

func TestRootBadConfigFile(t *testing.T) {
	setup(t)
	b := newBox(t)
	path := filepath.Join(b.bundle, "config.json")
	good := readFile(t, path)
	for _, tt := range []struct{ name, data, want string }{
		{"empty", "", `config\.json`},
		{"no JSON", "hello", `config\.json:1:1`},
		{"cut off", good[:len(good)/2], `config\.json:\d+:\d+`},
		{"more behind it", good + "x", `config\.json:\d+:\d+`},
		{"an array", "[]", `config\.json:1:1`},
		{"a comma too many", strings.Replace(good, `"cwd": "/"`, `"cwd": "/",`, 1), `config\.json:\d+:\d+`},
	} {
		writeFile(t, path, tt.data)
		r := b.do("create", "--bundle", b.bundle)
		if r.Code != 1 || !regexp.MustCompile(tt.want).MatchString(r.Stderr) {
			t.Errorf("%s: %+v, want %s", tt.name, r, tt.want)
		}
		oneError(t, r.Stderr)
		b.gone()
	}
	// Values that are wrong are shown with their place, too.
	writeFile(t, path, strings.Replace(good, `"cwd": "/"`, `"cwd": "tmp"`, 1))
	if r := b.do("create", "--bundle", b.bundle); !regexp.MustCompile(`config\.json:\d+:\d+: process\.cwd`).MatchString(r.Stderr) {
		t.Errorf("a wrong value: %+v, want its line and column", r)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r := b.do("create", "--bundle", b.bundle)
	if r.Code != 1 || !strings.Contains(r.Stderr, "JSON specification file config.json not found") {
		t.Errorf("missing config.json: %+v", r)
	}
	if r := b.do("create", "--bundle", "/no/such/bundle"); r.Code != 1 || !strings.Contains(r.Stderr, "/no/such/bundle") {
		t.Errorf("missing bundle: %+v", r)
	}
	// What a later version of the specification has added is no error.
	writeFile(t, path, strings.Replace(good, `"cwd": "/"`, `"cwd": "/", "future": {"a": [1, {"b": null}]}`, 1))
	b.output()
	b.gone()
}

func TestRootBadIDs(t *testing.T) {
	setup(t)
	b := newBox(t)
	outside := filepath.Join(filepath.Dir(testenv.StateRoot(t)), "escape")
	for _, id := range []string{"", ".", "..", "../escape", "a/b", "/abs", "a b", "a\nb", ".hidden", strings.Repeat("x", 256), "a\xffb", "ü"} {
		for _, verb := range []string{"create", "run", "start", "state", "kill", "delete"} {
			args := []string{verb}
			if verb == "create" || verb == "run" {
				args = append(args, "--bundle", b.bundle)
			}
			r := testenv.Run(t, append(args, id)...)
			if r.Code != 1 || !strings.Contains(r.Stderr, "invalid container ID") {
				t.Errorf("%s %q: %+v", verb, id, r)
			}
		}
		if r := testenv.Run(t, "delete", "--force", id); r.Code != 1 {
			t.Errorf("delete --force %q: %+v", id, r)
		}
		if r := testenv.Run(t, "exec", id, "true"); r.Code != 255 {
			t.Errorf("exec %q: %+v", id, r)
		}
	}
	if entries, _ := os.ReadDir(testenv.StateRoot(t)); len(entries) != 0 {
		t.Errorf("the state root has %v", entries)
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a directory outside of the state root was made")
	}
	for _, id := range []string{"a", "A.b_c+d-e", "-not", strings.Repeat("y", 255)} {
		args := []string{"run", "--bundle", b.bundle, "--", id}
		if r := testenv.Run(t, args...); r.Code != 0 {
			t.Errorf("run %q: %+v", id, r)
		}
	}
}

func TestRootConsoleSocketErrors(t *testing.T) {
	setup(t)
	tty := func(s *specs.Spec) { s.Process.Terminal = true }
	b := newBox(t, tty)
	if r := b.do("create", b.at([]string{"--console-socket", "/no/such/socket"})...); r.Code != 1 || !strings.Contains(r.Stderr, "/no/such/socket") {
		t.Errorf("console socket that is not there: %+v", r)
	}
	b.gone()
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, "")
	if r := b.do("create", b.at([]string{"--console-socket", path})...); r.Code != 1 || !strings.Contains(r.Stderr, "connection refused") {
		t.Errorf("console socket that is a file: %+v", r)
	}
	b.gone()
	if r := b.run("--detach"); r.Code != 1 || !strings.Contains(r.Stderr, "cannot allocate tty if runc will detach without setting console socket") {
		t.Errorf("run --detach with a terminal: %+v", r)
	}
	b.gone()
	plain := newBox(t)
	if r := plain.do("create", plain.at([]string{"--console-socket", path})...); r.Code != 1 || !strings.Contains(r.Stderr, "cannot use console socket") {
		t.Errorf("console socket without a terminal: %+v", r)
	}
	plain.gone()
}

func TestRootCommandLine(t *testing.T) {
	setup(t)
	b := newBox(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"unknown verb", []string{"frobnicate"}, 3, `"frobnicate"`},
		{"unknown verb with help", []string{"frobnicate", "--help"}, 3, `"frobnicate"`},
		{"a word of other tools", []string{"rmi", "x"}, 3, "hint: minirun image rm\n"},
		{"a word of the group of images", []string{"save", "x"}, 3, "hint: for images: minirun image save\n"},
		{"unknown flag", []string{"create", "--frobnicate", b.id}, 1, "--frobnicate"},
		{"unknown letter", []string{"delete", "-x", b.id}, 1, "-x"},
		{"unknown global flag", []string{"--frobnicate", "list"}, 1, "--frobnicate"},
		{"flag without value", []string{"create", "--bundle"}, 1, "--bundle"},
		{"flag without number", []string{"create", "--preserve-fds", "x", b.id}, 1, "preserve-fds"},
		{"switch with a value", []string{"delete", "--force=maybe", b.id}, 1, "force"},
		{"no ID", []string{"start"}, 1, "container ID"},
		{"two IDs", []string{"start", "a", "b"}, 1, "got 2"},
		{"flag behind the ID", []string{"delete", b.id, "--force"}, 1, "got 2"},
		{"log format", []string{"--log-format", "xml", "list"}, 1, "text or json"},
		{"list format", []string{"list", "--format", "xml"}, 1, "table or json"},
		{"list with arguments", []string{"list", "x"}, 1, "got 1"},
		{"systemd", []string{"--systemd-cgroup=maybe", "list"}, 1, "--systemd-cgroup: invalid value"},
		{"exec without a command", []string{"exec", b.id}, 1, "command"},
		{"image flags without an image", []string{"create", "--memory", "1g", "--bundle", b.bundle, b.id}, 1, "--memory"},
	} {
		r := testenv.Run(t, tt.args...)
		if r.Code != tt.code || !strings.Contains(r.Stderr, tt.text) || r.Stdout != "" {
			t.Errorf("%s: %+v, want exit status %d and %q", tt.name, r, tt.code, tt.text)
		}
		oneError(t, r.Stderr)
	}
	// All the ways to write a flag.
	for _, args := range [][]string{
		{"run", "--bundle", b.bundle, b.id},
		{"run", "--bundle=" + b.bundle, b.id},
		{"run", "-b", b.bundle, b.id},
		{"run", "-bundle", b.bundle, b.id},
		{"run", "-b=" + b.bundle, b.id},
		{"run", "-b", b.bundle, "--", b.id},
		{"--debug=false", "run", "--no-new-keyring", "--keep=false", "--bundle", b.bundle, b.id},
		{"--rootless", "auto", "run", "-b", b.bundle, b.id},
	} {
		if r := testenv.Run(t, args...); r.Code != 0 || r.Stderr != "" {
			t.Errorf("%q: %+v", args, r)
		}
	}
	up := newBox(t, forever).up()
	// What follows the ID is the container's.
	if out := up.execOut("echo", "--tty", "-u", "5"); out != "--tty -u 5\n" {
		t.Errorf("exec echo --tty -u 5: %q", out)
	}
	if out := up.execOut("-e", "A=1", "--env=B=2", "--", "sh", "-c", "echo $A$B"); out != "12\n" {
		t.Errorf("exec -e --env=: %q", out)
	}
}

func TestRootHelpAndVersion(t *testing.T) {
	setup(t)
	r := testenv.Run(t, "--help")
	if r.Code != 0 || r.Stderr != "" {
		t.Fatalf("--help: %+v", r)
	}
	_, rest, _ := strings.Cut(r.Stdout, "commands:\n")
	list, _, _ := strings.Cut(rest, "\n\n")
	heavy, _, _ := strings.Cut(strings.SplitAfter(testenv.RunCmd(t, exec.Command(filepath.Join(filepath.Dir(testenv.Binary(t)), "minirund"), "--help")).Stdout, "COMMANDS:\n")[1], "\n\n")
	verbs := 0
	for _, line := range lines(list) {
		verb := strings.Fields(line)[0]
		want := regexp.MustCompile("^minirun " + verb + ": .*\n(.*\n)*usage: minirun " + verb)
		if strings.Contains("\n"+heavy, "\n   "+verb+" ") && verb != "version" { // minirund's
			want = regexp.MustCompile("(?i)\\busage:\\s*minirun " + verb)
		}
		verbs++
		for _, args := range [][]string{{verb, "--help"}, {verb, "-h"}, {"--root", "/no/such/root", verb, "--help"}} {
			r := testenv.Run(t, args...)
			if r.Code != 0 || r.Stderr != "" || !want.MatchString(r.Stdout) {
				t.Errorf("%q: %+v", args, r)
			}
		}
	}
	if verbs < 25 {
		t.Errorf("only %d verbs in the help", verbs)
	}
	for _, args := range [][]string{{"--version"}, {"-v"}, {"version"}} {
		r := testenv.Run(t, args...)
		l := lines(r.Stdout)
		if r.Code != 0 || len(l) < 3 || !strings.HasPrefix(l[0], "minirun version ") || !strings.HasPrefix(l[1], "commit: ") || !regexp.MustCompile(`^spec: 1\.\d+\.\d+$`).MatchString(l[2]) {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := testenv.Run(t); r.Code != 0 || !strings.Contains(r.Stdout, "usage: minirun") {
		t.Errorf("no arguments: %+v", r)
	}
}

func TestRootLog(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"no\"such"} })
	dir := t.TempDir()
	log := filepath.Join(dir, "log.json")
	b.do("state") // writes nothing there
	for range 2 {
		testenv.Run(t, "--log", log, "--log-format", "json", "create", "--bundle", b.bundle, b.id)
	}
	entries := lines(readFile(t, log))
	if len(entries) != 2 {
		t.Fatalf("log %q, want two appended lines", entries)
	}
	var e struct{ Level, Msg, Time string }
	if err := json.Unmarshal([]byte(entries[1]), &e); err != nil {
		t.Fatal(err)
	}
	if e.Level != "error" || !strings.Contains(e.Msg, `unable to start container process: exec: "no\"such": executable file not found in $PATH`) || strings.Contains(e.Msg, "hint") {
		t.Errorf("entry %+v", e)
	}
	if when, err := time.Parse(time.RFC3339, e.Time); err != nil || time.Since(when) > time.Hour {
		t.Errorf("time %q: %v", e.Time, err)
	}
	log = filepath.Join(dir, "log.txt")
	r := testenv.Run(t, "--log="+log, "create", "--bundle", b.bundle, b.id)
	if got := readFile(t, log); !regexp.MustCompile(`^time="[^"]+" level=error msg=".*not found in \$PATH"\n$`).MatchString(got) {
		t.Errorf("text log %q", got)
	}
	if !strings.Contains(r.Stderr, "executable file not found") {
		t.Errorf("standard error %q, want the error there too", r.Stderr)
	}
	// A log that cannot be written hides nothing.
	r = testenv.Run(t, "--log", filepath.Join(dir, "missing", "log"), "create", "--bundle", b.bundle, b.id)
	if r.Code != 127 || !strings.Contains(r.Stderr, "missing") || !strings.Contains(r.Stderr, "executable file not found") {
		t.Errorf("log that cannot be written: %+v", r)
	}
	// Success writes nothing; a warning is no error.
	ok := newBox(t, func(s *specs.Spec) {
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_NOSUCH")
	})
	log = filepath.Join(dir, "warn.json")
	r = testenv.Run(t, "--log", log, "--log-format=json", "run", "--bundle", ok.bundle, ok.id)
	if got := readFile(t, log); r.Code != 0 || r.Stderr != "" || !strings.Contains(got, `"level":"warning"`) || !strings.Contains(got, "CAP_NOSUCH") {
		t.Errorf("warning: %+v, log %q", r, got)
	}
}

func TestRootSpec(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	if r := testenv.Run(t, "spec", "--bundle", dir); r.Code != 0 || r.Stdout+r.Stderr != "" {
		t.Fatalf("spec: %+v", r)
	}
	path := filepath.Join(dir, "config.json")
	var s specs.Spec
	if err := json.Unmarshal([]byte(readFile(t, path)), &s); err != nil {
		t.Fatal(err)
	}
	if s.Root.Path != "rootfs" || s.Process.Args[0] != "sh" || !s.Process.Terminal || len(s.Mounts) != 7 {
		t.Errorf("spec %+v", s)
	}
	before := readFile(t, path)
	if r := testenv.Run(t, "spec", "--bundle", dir); r.Code != 1 || !strings.Contains(r.Stderr, "exists. Remove it first") || readFile(t, path) != before {
		t.Errorf("spec over an existing one: %+v", r)
	}
	if r := testenv.Run(t, "spec", "--bundle", filepath.Join(dir, "missing")); r.Code != 1 {
		t.Errorf("spec in a missing directory: %+v", r)
	}
	// It works once there is a root file system and no terminal.
	b := newBox(t)
	if err := os.Remove(filepath.Join(b.bundle, "config.json")); err != nil {
		t.Fatal(err)
	}
	if r := testenv.Run(t, "spec", "-b", b.bundle); r.Code != 0 {
		t.Fatal(r)
	}
	change(t, b.bundle, func(m map[string]any) {
		p := m["process"].(map[string]any)
		p["terminal"], p["args"] = false, []string{"sh", "-c", "echo works as $(hostname)"}
		m["linux"].(map[string]any)["cgroupsPath"] = b.cgroup
	})
	if out := b.output(); !strings.HasPrefix(out, "works as ") {
		t.Errorf("container of the default spec: %q", out)
	}
	if r := testenv.Run(t, "spec", "--rootless", "--bundle", t.TempDir()); r.Code != 0 {
		t.Errorf("spec --rootless: %+v", r)
	}
}
