package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// badRefused runs create with a state root that does not exist: making it is the
// first thing that create does, and a configuration that is wrong must not get
// that far.
func badRefused(t *testing.T, b *ociBox, name, want string) {
	t.Helper()
	root := filepath.Join(filepath.Dir(b.bundle), "untouched")
	r := testenv.RunCmd(t, testenv.Command(t, "--root", root, "create", "--bundle", b.bundle, b.id))
	if r.Code != 1 || !strings.Contains(r.Stderr, want) {
		t.Errorf("%s: %+v, want status 1 and %q", name, r, want)
	}
	oneError(t, r.Stderr)
	if _, err := os.Lstat(root); err == nil {
		t.Errorf("%s: the state root was made before the refusal", name)
		_ = os.RemoveAll(root)
	}
}

// Each field of the specification with a value of a wrong type: refused with its
// path before anything is made.
func TestRootBadFields(t *testing.T) {
	setup(t)
	b := newBox(t)
	file := filepath.Join(b.bundle, "config.json")
	good := readFile(t, file)
	n := 0
	badWalk(reflect.TypeFor[specs.Spec](), nil, "", func(keys []any, path string, typ reflect.Type) {
		n++
		badConfig(t, file, good, keys, badValue(typ))
		badRefused(t, b, path, ": "+path+": want ")
	})
	if n < 200 {
		t.Errorf("only %d fields tried", n)
	}
	b.gone()
}

// badWalk visits each field of a type of the specification.
func badWalk(typ reflect.Type, keys []any, path string, visit func(keys []any, path string, typ reflect.Type)) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	keys = keys[:len(keys):len(keys)]
	if path != "" {
		visit(keys, path, typ)
	}
	switch typ.Kind() {
	case reflect.Slice:
		badWalk(typ.Elem(), append(keys, 0), path+"[0]", visit)
	case reflect.Map:
		badWalk(typ.Elem(), append(keys, "key"), path+".key", visit)
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			p := f.Tag.Get("platform")
			switch {
			case path == "" && p != "" && !strings.Contains(p, "linux"):
			case f.Anonymous && name == "":
				for j := range f.Type.NumField() { // its fields belong to the outer object
					inner := f.Type.Field(j)
					name, _, _ := strings.Cut(inner.Tag.Get("json"), ",")
					badWalk(inner.Type, append(keys, name), path+"."+name, visit)
				}
			default:
				badWalk(f.Type, append(keys, name), strings.TrimPrefix(path+"."+name, "."), visit)
			}
		}
	}
}

// badConfig writes a configuration that is good but for one value.
func badConfig(t *testing.T, file, good string, keys []any, value any) {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(good), &config); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(badSet(config, keys, value))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(raw))
}

// Each field with the ends of what its type can hold, in an object that has
// nothing else: minirun makes the container or says which field is wrong, and
// leaves nothing.
func TestRootOddValues(t *testing.T) {
	setup(t)
	b := newBox(t)
	file := filepath.Join(b.bundle, "config.json")
	good := readFile(t, file)
	long := strings.Repeat("x", 5000)
	made, refused := 0, 0
	badWalk(reflect.TypeFor[specs.Spec](), nil, "", func(keys []any, path string, typ reflect.Type) {
		var values []any
		bits := 64
		switch typ.Kind() {
		case reflect.Struct:
			values = []any{map[string]any{}, nil}
		case reflect.Map:
			values = []any{map[string]any{}, map[string]any{"": nil}, map[string]any{"a/../b\x00": nil}}
		case reflect.Slice:
			values = []any{[]any{}, []any{nil}}
		case reflect.String:
			values = []any{"", "a\x00b", long, "../../..", "\n\x1b"}
		case reflect.Int32:
			bits = 32
			fallthrough
		case reflect.Int, reflect.Int64:
			values = []any{-1, int64(-1) << (bits - 1), uint64(1)<<(bits-1) - 1}
		case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			values = []any{0, uint64(1)<<(typ.Bits()-1)<<1 - 1}
		}
		field := ""
		for _, k := range keys {
			if name, ok := k.(string); ok && name != "key" {
				field = name
			}
		}
		block, _ := keys[0].(string)
		if len(keys) > 1 && (block == "linux" || block == "process") {
			block = keys[1].(string)
		}
		for _, v := range values {
			badConfig(t, file, good, keys, v)
			r := b.do("create", "--bundle", b.bundle)
			if r.Code == 0 {
				made++
				b.must("delete", "--force")
				b.gone()
				continue
			}
			refused++
			words := strings.ToLower(r.Stderr)
			named := strings.Contains(words, strings.ToLower(field)) || strings.Contains(words, strings.ToLower(strings.TrimSuffix(block, "s")))
			if path == "process.args[0]" {
				named = named || strings.Contains(words, "exec")
			}
			if !named || strings.Contains(words, "goroutine") || r.Code != 1 && r.Code != 126 && r.Code != 127 {
				t.Errorf("%s = %.40q: %.600v, want status 1 and the name of the field", path, v, r)
			}
			oneError(t, r.Stderr)
			b.gone()
		}
	})
	t.Logf("%d made, %d refused", made, refused)
	if made < 100 || refused < 200 {
		t.Errorf("%d made, %d refused: too few of one kind", made, refused)
	}
}

// badValue is one that no value of the type can be.
func badValue(typ reflect.Type) any {
	switch typ.Kind() {
	case reflect.Slice:
		return map[string]any{}
	case reflect.Map:
		return []any{}
	case reflect.String:
		return 7
	case reflect.Bool:
		return "true"
	case reflect.Struct:
		return "x"
	}
	return json.RawMessage("1e40")
}

// What exec and update read from files, with values of a wrong type.
func TestRootBadFiles(t *testing.T) {
	setup(t)
	b := newBox(t, forever).up()
	file := filepath.Join(t.TempDir(), "file")
	for _, tt := range []struct {
		typ  reflect.Type
		args []string
		good any
		code int
	}{
		{reflect.TypeFor[specs.Process](), []string{"exec", "--process", file, b.id}, specs.Process{Args: []string{"true"}, Cwd: "/"}, 255},
		{reflect.TypeFor[specs.LinuxResources](), []string{"update", "--resources", file, b.id}, specs.LinuxResources{}, 1},
	} {
		raw, err := json.Marshal(tt.good)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		check := func(path, want string) {
			t.Helper()
			n++
			r := testenv.Run(t, tt.args...)
			if r.Code != tt.code || !strings.Contains(r.Stderr, want) {
				t.Errorf("%s: %s: %+v, want status %d and %q", tt.args[0], path, r, tt.code, want)
			}
			oneError(t, r.Stderr)
		}
		badWalk(tt.typ, nil, "", func(keys []any, path string, typ reflect.Type) {
			badConfig(t, file, string(raw), keys, badValue(typ))
			check(path, path+": want ")
		})
		for _, data := range []string{"", "[]", "{", string(raw) + "}", "\xff", strings.Repeat("[", 100000), "{} " + strings.Repeat(" ", 4<<20)} {
			writeFile(t, file, data)
			check(data[:min(len(data), 9)], "")
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		check("a missing file", file)
		if n < 40 {
			t.Errorf("%s: only %d documents tried", tt.args[0], n)
		}
	}
	if out := b.execOut("echo", "runs on"); out != "runs on\n" {
		t.Errorf("exec after all that: %q", out)
	}
}

// Each flag that takes a value with values that make no sense: an error like all
// others, whatever the command does with it, and nothing made.
func TestRootOddFlags(t *testing.T) {
	setup(t)
	runtime.LockOSThread()                                  // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil { // no registry is to be asked for images
		t.Fatal(err)
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "state")
	run := func(args ...string) testenv.Result {
		cmd := testenv.Command(t, append([]string{"--root", root}, args...)...)
		cmd.Dir = dir
		return testenv.RunCmd(t, cmd)
	}
	flag := regexp.MustCompile(`(?m)^ +(?:-[a-zA-Z], )?(--[a-z-]+) [A-Z]\S* `)
	_, list, _ := strings.Cut(run("--help").Stdout, "commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	n := 0
	for _, line := range lines(list) {
		verb := strings.Fields(line)[0]
		help := run(verb, "--help").Stdout
		if strings.Contains(help, "COMMANDS:") || verb == "images" || verb == "doctor" {
			continue // minirund's
		}
		for _, m := range flag.FindAllStringSubmatch(help, -1) {
			for _, value := range []string{"", "-1", "99999999999999999999", "\n", "a:b:c", strings.Repeat("x", 4000)} {
				n++
				r := run(verb, m[1]+"="+value, "noSuchContainer") // no name of an image, either
				if r.Code == 0 && r.Stderr == "" {
					continue
				}
				if r.Code != 1 && r.Code != 255 || strings.Contains(r.Stderr, "goroutine") {
					t.Errorf("%s %s=%.20q: %+v", verb, m[1], value, r)
				}
				oneError(t, r.Stderr)
			}
		}
	}
	if n < 200 {
		t.Errorf("only %d tried", n)
	}
	if entries, _ := os.ReadDir(root); len(entries) != 0 {
		t.Errorf("the state root has %v", entries)
	}
}

// badSet puts a value at a place of a configuration.
func badSet(v any, keys []any, value any) any {
	if len(keys) == 0 {
		return value
	}
	switch key := keys[0].(type) {
	case string:
		m, ok := v.(map[string]any)
		if !ok {
			m = map[string]any{}
		}
		m[key] = badSet(m[key], keys[1:], value)
		return m
	default:
		return []any{badSet(nil, keys[1:], value)}
	}
}

// A config.json that is no document at all, or could be read in two ways.
func TestRootBadDocument(t *testing.T) {
	setup(t)
	b := newBox(t)
	file := filepath.Join(b.bundle, "config.json")
	good := readFile(t, file)
	deep := strings.Repeat(`{"a":`, 200000) + "1" + strings.Repeat("}", 200000)
	for _, tt := range []struct{ name, data, want string }{
		{"trailing brace", good + "}", "config.json:"},
		{"second document", good + good, "config.json:"},
		{"trailing NUL", good + "\x00", "config.json:"},
		{"leading byte order mark", "\xef\xbb\xbf" + good, "config.json:1:1"},
		{"UTF-16", "\xff\xfe{\x00}\x00", "not UTF-8"},
		{"a byte that is not UTF-8", strings.Replace(good, `"rootfs"`, "\"root\xfffs\"", 1), `"\xff" is not UTF-8`},
		{"root twice", strings.Replace(good, `"root"`, `"root":{"path":"/"},"root"`, 1), "root: given twice"},
		{"args twice in other letters", strings.Replace(good, `"args"`, `"ARGS":["id"],"args"`, 1), "process.args: given twice"},
		{"unknown block, too deep", strings.Replace(good, `{`, `{"deep":`+deep+`,`, 1), "nest deeper than 10000"},
		{"arrays only", strings.Repeat("[", 100000), "config.json:1:1"},
		{"comment", strings.Replace(good, `{`, "{ // no\n", 1), "config.json:1:"},
		{"single quotes", strings.ReplaceAll(good, `"`, `'`), "config.json:"},
		{"larger than 4 MiB", good + strings.Repeat(" ", 4<<20), "larger than 4194304 bytes"},
	} {
		writeFile(t, file, tt.data)
		badRefused(t, b, tt.name, tt.want)
	}
	for cut := len(good) - 2; cut > 0; cut -= 1 + len(good)/23 {
		writeFile(t, file, good[:cut])
		badRefused(t, b, "cut off", "config.json:")
	}
	// A file that is none.
	replace := func(name, want string, put func() error) {
		t.Helper()
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
		badRefused(t, b, name, want)
	}
	replace("a directory", "is a directory", func() error { return os.Mkdir(file, 0o755) })
	replace("a pipe that nobody writes to", "config.json:1:1", func() error { return syscall.Mkfifo(file, 0o644) })
	replace("an endless file", "larger than 4194304 bytes", func() error { return os.Symlink("/dev/zero", file) })
	replace("a link to itself", "too many levels of symbolic links", func() error { return os.Symlink("config.json", file) })
	replace("a link to nothing", "JSON specification file config.json not found", func() error { return os.Symlink("nothing", file) })
	for _, bundle := range []string{"/no/such/bundle", "/etc/passwd", strings.Repeat("x", 5000)} {
		if r := testenv.Run(t, "create", "--bundle", bundle, b.id); r.Code != 1 || !strings.Contains(r.Stderr, bundle[:10]) {
			t.Errorf("bundle %.20q: %+v", bundle, r)
		}
	}
	b.gone()
}

// A console socket that nobody accepts from must not hold create up for ever,
// and one that nobody reads from need not hold it up at all.
func TestRootConsoleSocketFull(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) { s.Process.Terminal = true })
	path := filepath.Join(t.TempDir(), "s")
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 0); err != nil { // room for one
		t.Fatal(err)
	}
	if r := b.do("create", b.at([]string{"--console-socket", path})...); r.Code != 0 {
		t.Fatalf("a console socket that nobody reads from: %+v", r)
	}
	begin := time.Now()
	other := newBox(t, func(s *specs.Spec) { s.Process.Terminal = true })
	r := other.do("create", other.at([]string{"--console-socket", path})...)
	if r.Code != 1 || !strings.Contains(r.Stderr, path) || !strings.Contains(r.Stderr, "timed out") {
		t.Errorf("a console socket with a full queue, after %v: %+v", time.Since(begin), r)
	}
	oneError(t, r.Stderr)
	other.gone()
	b.must("delete", "--force")
	b.gone()
}

// A pid file that cannot be written: nothing is left of the container.
func TestRootBadPidFile(t *testing.T) {
	setup(t)
	b := newBox(t)
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "missing", "pid"), "/proc/pid", "/proc/1/pid", "/etc/passwd/pid", filepath.Join(dir, strings.Repeat("n", 300))} {
		for _, verb := range []string{"create", "run"} {
			r := b.do(verb, b.at([]string{"--pid-file", path})...)
			if r.Code != 1 || !strings.Contains(r.Stderr, path[:9]) {
				t.Errorf("%s with pid file %.40q: %+v", verb, path, r)
			}
			oneError(t, r.Stderr)
			b.gone()
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left beside the pid files: %v", entries)
	}
}
