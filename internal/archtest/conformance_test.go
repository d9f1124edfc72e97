package archtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/minirun/minirun/internal/testenv"
)

const conformancePage = "docs/spec-conformance.md"

// conformanceRow is one row of a table of docs/spec-conformance.md.
type conformanceRow struct {
	name       string // path of a field, or command and flag
	behaviour  string
	difference string
	line       int
	used       bool
}

// conformance reads the tables of the sections, each row for all the names it
// stands for: "run/create --bundle" are two.
func conformance(t *testing.T, sections ...string) []*conformanceRow {
	t.Helper()
	tests := map[string]bool{}
	for _, f := range files(t) {
		if strings.HasSuffix(f, "_test.go") {
			for _, m := range testFunc.FindAllStringSubmatch(read(t, f), -1) {
				tests[m[1]] = true
			}
		}
	}
	var rows []*conformanceRow
	section := ""
	for i, line := range strings.Split(read(t, conformancePage), "\n") {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = title
		}
		if !slices.Contains(sections, section) || !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 4 {
			t.Errorf("%s:%d: %d cells, want 4", conformancePage, i+1, len(cells))
			continue
		}
		for j, c := range cells {
			if cells[j] = strings.TrimSpace(c); cells[j] == "" {
				t.Errorf("%s:%d: cell %d is empty", conformancePage, i+1, j+1)
			}
		}
		names := testName.FindAllStringSubmatch(cells[2], -1)
		if len(names) == 0 {
			t.Errorf("%s:%d: names no test", conformancePage, i+1)
		}
		for _, m := range names {
			if !tests[m[1]] {
				t.Errorf("%s:%d: there is no test %s", conformancePage, i+1, m[1])
			}
		}
		name := strings.Trim(cells[0], "`")
		first, rest, more := strings.Cut(name, " ")
		for _, word := range strings.Split(first, "/") {
			if more {
				word += " " + rest
			}
			for _, other := range rows {
				if other.name == word {
					t.Errorf("%s:%d: %s has a row already, line %d", conformancePage, i+1, word, other.line)
				}
			}
			rows = append(rows, &conformanceRow{name: word, behaviour: cells[1], difference: cells[3], line: i + 1})
		}
	}
	if len(rows) < 10 {
		t.Fatalf("%s: only %d rows in %q", conformancePage, len(rows), sections)
	}
	return rows
}

// find looks the row of a name up, in which * stands for a part between dots.
func find(rows []*conformanceRow, name string) (found []*conformanceRow) {
	for _, r := range rows {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(r.name), `\*`, `[^.\[\]]+`)
		if regexp.MustCompile("^" + pattern + "$").MatchString(name) {
			found = append(found, r)
		}
	}
	return found
}

// fieldsOf walks a type of the specification: leaf is called for what has no
// fields of its own, node for everything else.
func fieldsOf(typ reflect.Type, path string, node, leaf func(path string)) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch typ.Kind() {
	case reflect.Slice:
		if typ.Elem().Kind() != reflect.Struct {
			leaf(path)
			return
		}
		node(path)
		fieldsOf(typ.Elem(), path+"[]", func(string) {}, leaf)
	case reflect.Map:
		if typ.Elem().Kind() != reflect.Struct {
			leaf(path)
			return
		}
		node(path)
		fieldsOf(typ.Elem(), path+".*", func(string) {}, leaf)
	case reflect.Struct:
		if path != "" {
			node(path)
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			at := path
			switch {
			case f.Anonymous && name == "":
			case path == "" || strings.HasSuffix(path, ".") || name == "":
				at += name
			default:
				at += "." + name
			}
			if p := f.Tag.Get("platform"); p != "" && !strings.Contains(p, "linux") {
				leaf(at) // one row for all of it
				continue
			}
			fieldsOf(f.Type, at, node, leaf)
		}
	default:
		leaf(path)
	}
}

// TestConformanceFields: each field of config.json, of the state and of features
// has a row that says what becomes of it, and each row a field.
func TestConformanceFields(t *testing.T) {
	rows := conformance(t, "config.json", "State", "Features")
	count := 0
	leaf := func(path string) {
		count++
		found := find(rows, path)
		if len(found) == 0 {
			t.Errorf("%s: no row for %s", conformancePage, path)
		}
		for _, r := range found {
			r.used = true
		}
	}
	node := func(path string) {
		for _, r := range rows {
			if r.name == path {
				r.used = true
			}
		}
	}
	fieldsOf(reflect.TypeFor[specs.Spec](), "", node, leaf)
	fieldsOf(reflect.TypeFor[specs.State](), "state", node, leaf)
	state := reflect.TypeFor[specs.ContainerProcessState]()
	for i := range state.NumField() {
		name, _, _ := strings.Cut(state.Field(i).Tag.Get("json"), ",")
		leaf("processState." + name)
	}
	fieldsOf(reflect.TypeFor[features.Features](), "features", node, leaf)
	if count < 200 {
		t.Errorf("only %d fields found", count)
	}
	for _, r := range rows {
		if !r.used {
			t.Errorf("%s:%d: %s is no field of the specification", conformancePage, r.line, r.name)
		}
	}
}

// peerCommands are the commands and flags of runc (1.1 to 1.4), and what crun
// has beyond them.
const peerCommands = `
--root --log --log-format --debug --systemd-cgroup --rootless --criu --cgroup-manager --version
checkpoint --image-path --work-path --parent-path --leave-running --tcp-established --tcp-skip-in-flight --link-remap --ext-unix-sk --shell-job
checkpoint --lazy-pages --status-fd --page-server --file-locks --pre-dump --manage-cgroups-mode --empty-ns --auto-dedup
create --bundle --console-socket --pid-file --no-pivot --no-new-keyring --preserve-fds --no-subreaper --config
delete --force --regex
events --interval --stats
exec --console-socket --cwd --env --tty --user --additional-gids --process --detach --pid-file --process-label --apparmor --no-new-privs --cap
exec --preserve-fds --cgroup --ignore-paused --no-subreaper
features
kill --all --regex
list --format --quiet
mounts add
mounts remove
pause
ps --format
restore --console-socket --image-path --work-path --tcp-established --tcp-close --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode --bundle
restore --detach --pid-file --no-subreaper --no-pivot --empty-ns --auto-dedup --lazy-pages --lsm-profile --lsm-mount-context
resume
run --bundle --console-socket --detach --keep --pid-file --no-subreaper --no-pivot --no-new-keyring --preserve-fds --config
spec --bundle --rootless --file
start
state
update --resources --blkio-weight --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpu-idle --cpuset-cpus
update --cpuset-mems --kernel-memory --kernel-memory-tcp --memory --memory-reservation --memory-swap --pids-limit --l3-cache-schema --mem-bw-schema
`

// ownCommands lists the commands and flags that minirun's help has. Commands of
// minirund have more below them, which docs/cli.md describes.
func ownCommands(t *testing.T) map[string]bool {
	t.Helper()
	own := map[string]bool{}
	top := help(t)
	_, global, _ := strings.Cut(top, "global flags:\n")
	for _, f := range flagsIn(global) {
		own["--"+f] = true
	}
	for _, name := range commandsIn(t, top, "commands:") {
		own[name] = true
		text := help(t, name)
		if strings.Contains(text, "COMMANDS:") {
			continue
		}
		if _, subs, ok := strings.Cut(text, "\ncommands:\n"); ok {
			subs, _, _ = strings.Cut(subs, "\n\n")
			for _, m := range commandLine.FindAllStringSubmatch(subs+"\n", -1) {
				own[name+" "+m[1]] = true
			}
		}
		for _, f := range flagsIn(text) {
			own[name+" --"+f] = true
		}
	}
	return own
}

// TestConformanceCommands: each command and flag that minirun, runc or crun has
// is in the table, and nothing else. What is in minirun's help is not refused.
func TestConformanceCommands(t *testing.T) {
	rows := conformance(t, "Commands")
	known := ownCommands(t)
	for name := range known {
		for _, r := range find(rows, name) {
			if r.refused() && name != "--systemd-cgroup" {
				t.Errorf("%s:%d: %s is not refused: minirun --help has it", conformancePage, r.line, name)
			}
		}
	}
	for line := range strings.Lines(strings.TrimSpace(peerCommands)) {
		words := strings.Fields(line)
		command := ""
		if !strings.HasPrefix(words[0], "-") {
			command, words = words[0]+" ", words[1:]
			if command != "mounts " {
				known[strings.TrimSpace(command)] = true
			}
		}
		for _, w := range words {
			known[command+w] = true
		}
	}
	for name := range known {
		if len(find(rows, name)) == 0 {
			t.Errorf("%s: no row for %s", conformancePage, name)
		}
	}
	for _, r := range rows {
		if !known[r.name] {
			t.Errorf("%s:%d: %s is neither minirun's nor runc's nor crun's", conformancePage, r.line, r.name)
		}
	}
}

func (r *conformanceRow) refused() bool { return strings.HasPrefix(r.behaviour, "refused by name") }

// conformanceSamples are good values of fields that may be refused by name: the
// field, the object to merge into config.json, and the name to look for when it
// is not the field's own.
var conformanceSamples = []struct{ field, config, name string }{
	{"hooks.prestart", `{"hooks":{"prestart":[{"path":"/bin/true"}]}}`, ""},
	{"hooks.createRuntime", `{"hooks":{"createRuntime":[{"path":"/bin/true"}]}}`, ""},
	{"hooks.createContainer", `{"hooks":{"createContainer":[{"path":"/bin/true"}]}}`, ""},
	{"hooks.startContainer", `{"hooks":{"startContainer":[{"path":"/bin/true"}]}}`, ""},
	{"hooks.poststart", `{"hooks":{"poststart":[{"path":"/bin/true"}]}}`, ""},
	{"hooks.poststop", `{"hooks":{"poststop":[{"path":"/bin/true"}]}}`, ""},
	{"linux.sysctl", `{"linux":{"sysctl":{"net.ipv4.ip_forward":"1"}}}`, ""},
}

// TestConformanceRefused tries what the table calls refused: a command is
// unknown, a flag too, and a field is named by the error.
func TestConformanceRefused(t *testing.T) {
	root := t.TempDir()
	run := func(args ...string) (status int, text string) {
		cmd := exec.Command(testenv.Binary(t), append([]string{"--root", filepath.Join(root, "state")}, args...)...)
		cmd.Dir = root
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	for _, r := range conformance(t, "Commands") {
		if !r.refused() {
			continue
		}
		words := strings.Fields(r.name)
		flag := words[len(words)-1]
		switch {
		case !strings.HasPrefix(flag, "-"):
			if status, text := run(words...); status != 3 || !strings.Contains(text, words[0]) {
				t.Errorf("%s:%d: %s: exit status %d, want 3: %s", conformancePage, r.line, r.name, status, text)
			}
		case len(words) == 1:
			if status, text := run(flag, "list"); status != 1 || !strings.Contains(text, strings.TrimLeft(flag, "-")) {
				t.Errorf("%s:%d: %s: exit status %d, want 1: %s", conformancePage, r.line, r.name, status, text)
			}
		default:
			if status, text := run(append(words, "x", "id")...); status != 1 || !strings.Contains(text, flag) {
				t.Errorf("%s:%d: %s: exit status %d, want 1: %s", conformancePage, r.line, r.name, status, text)
			}
		}
	}
	for _, r := range conformance(t, "config.json") {
		if !r.refused() {
			continue
		}
		tried := false
		for _, s := range conformanceSamples {
			if len(find([]*conformanceRow{{name: s.field}}, r.name)) == 0 {
				continue
			}
			tried = true
			name := s.name
			if name == "" {
				name = s.field
			}
			bundle := filepath.Join(t.TempDir(), "bundle")
			if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
				t.Fatal(err)
			}
			spec := testenv.DefaultSpec()
			if err := json.Unmarshal([]byte(s.config), spec); err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o644); err != nil {
				t.Fatal(err)
			}
			status, text := run("explain", "--bundle", bundle)
			if status != 1 || !strings.Contains(text, name) || !strings.Contains(text, "not supported") {
				t.Errorf("%s:%d: %s: exit status %d, want 1, %q and \"not supported\": %s", conformancePage, r.line, r.name, status, name, text)
			}
		}
		if !tried {
			t.Errorf("%s:%d: %s has no sample to try", conformancePage, r.line, r.name)
		}
	}
}

// TestConformanceFeatures holds what `minirun features` says against the table:
// engines ask it before they use a field.
func TestConformanceFeatures(t *testing.T) {
	testenv.Supervisor(t)
	out, err := exec.Command(testenv.Binary(t), "features").Output()
	if err != nil {
		t.Fatal(err)
	}
	var f features.Features
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatal(err)
	}
	rows := conformance(t, "config.json", "Commands")
	refused := func(name string) bool {
		t.Helper()
		found := find(rows, name)
		if len(found) == 0 {
			t.Fatalf("%s: no row for %s", conformancePage, name)
		}
		return found[0].refused()
	}
	check := func(feature string, says bool, row string) {
		t.Helper()
		if says == refused(row) {
			t.Errorf("features: %s is %v, but %s: %s", feature, says, conformancePage, find(rows, row)[0].behaviour)
		}
	}
	on := func(p *bool) bool { return p != nil && *p }
	for i, hooks := 0, reflect.TypeFor[specs.Hooks](); i < hooks.NumField(); i++ {
		name, _, _ := strings.Cut(hooks.Field(i).Tag.Get("json"), ",")
		check("hooks "+name, slices.Contains(f.Hooks, name), "hooks."+name)
	}
	l := f.Linux
	check("apparmor", l.Apparmor != nil && on(l.Apparmor.Enabled), "process.apparmorProfile")
	check("selinux", l.Selinux != nil && on(l.Selinux.Enabled), "process.selinuxLabel")
	check("intelRdt", l.IntelRdt != nil && on(l.IntelRdt.Enabled), "linux.intelRdt.closID")
	check("intelRdt schemata", l.IntelRdt != nil && on(l.IntelRdt.Schemata), "linux.intelRdt.schemata")
	check("intelRdt monitoring", l.IntelRdt != nil && on(l.IntelRdt.Monitoring), "linux.intelRdt.enableMonitoring")
	check("memoryPolicy", l.MemoryPolicy != nil && len(l.MemoryPolicy.Modes) > 0, "linux.memoryPolicy.mode")
	check("netDevices", l.NetDevices != nil && on(l.NetDevices.Enabled), "linux.netDevices")
	check("idmap", l.MountExtensions != nil && l.MountExtensions.IDMap != nil && on(l.MountExtensions.IDMap.Enabled), "mounts[].uidMappings[].size")
	check("seccomp", l.Seccomp != nil && on(l.Seccomp.Enabled), "linux.seccomp.defaultAction")
	check("systemd cgroups", l.Cgroup != nil && on(l.Cgroup.Systemd), "--systemd-cgroup")
	check("rdma", l.Cgroup != nil && on(l.Cgroup.Rdma), "linux.resources.rdma.x.hcaHandles")
}
