package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func secret(name, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, StringData: map[string]string{"password": value}}
}

// crashVariable makes the test binary the process that is killed.
const crashVariable = "MINIRUN_TEST_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashVariable); path != "" {
		writeUntilKilled(path)
	}
	os.Exit(m.Run())
}

// writeUntilKilled says the name of each object once it is stored.
func writeUntilKilled(path string) {
	s, err := Open(path, kinds, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := s.Revision(); ; i++ {
		c := configMap(fmt.Sprint("c", i), strings.Repeat("x", 3000))
		if _, err := s.Create("configmaps", c); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.Name)
	}
}

// What a write has returned for is there after a kill, wherever the kill came.
func TestCrash(t *testing.T) {
	path := file(t)
	acknowledged := map[string]bool{}
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashVariable+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acknowledged[lines.Text()] = true
			if n == 3+5*round {
				cmd.Process.Kill() // and what comes until it dies counts too
			}
		}
		cmd.Wait()
		s := open(t, path, Options{})
		for name := range acknowledged {
			if _, err := s.Get("configmaps", "default", name); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		l := must[List](t)(s.List("configmaps", Selector{}, 0, ""))
		if int(l.Revision) != len(l.Items) || len(acknowledged) < 4 {
			t.Errorf("round %d: %d objects at revision %d, %d acknowledged", round, len(l.Items), l.Revision, len(acknowledged))
		}
		s.Close()
	}
}

// No file makes the look at it fail otherwise than by an error.
func FuzzWalk(f *testing.F) {
	path := file(f)
	s := open(f, path, Options{})
	for i := range 20 {
		must[Object](f)(s.Create("configmaps", configMap(fmt.Sprint("c", i), strings.Repeat("x", 500))))
	}
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	if err := walk(good); err != nil {
		f.Fatal(err)
	}
	f.Add(5000, uint64(0))
	f.Add(40, uint64(1<<63))
	f.Fuzz(func(t *testing.T, at int, value uint64) {
		bad := bytes.Clone(good)
		if at < 0 || at+8 > len(bad) {
			return
		}
		native.PutUint64(bad[at:], value)
		walk(bad)
	})
}

// Whatever is cut off or overwritten: an error that says so, or a store without
// a loss; never a panic, never other contents.
func TestDamage(t *testing.T) {
	path := file(t)
	s := open(t, path, Options{})
	before := ""
	for i := range 40 {
		must[Object](t)(s.Create("configmaps", configMap(fmt.Sprint("c", i), strings.Repeat(fmt.Sprint(i), 500))))
		before = contents(t, s)
		must[Object](t)(s.Create("secrets", secret(fmt.Sprint("s", i), "x")))
	}
	want := contents(t, s)
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(7, 8))
	damaged := 0
	for i := range 72 {
		bad := bytes.Clone(good)
		switch i % 3 {
		case 0:
			bad = bad[:r.IntN(len(bad))]
		case 1: // a few bytes
			for at := range 8 {
				bad[(r.IntN(len(bad))+at)%len(bad)] ^= byte(1 + r.IntN(255))
			}
		case 2: // a lost page
			at := r.IntN(len(bad)/4096) * 4096
			clear(bad[at : at+4096])
		}
		if len(bad) == 0 {
			continue
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, kinds, Options{})
		var corrupt *CorruptError
		switch {
		case errors.As(err, &corrupt):
			damaged++
		case err != nil:
			// A version number that changed, or the sealed check: said otherwise.
			damaged++
			if !strings.Contains(err.Error(), "store") {
				t.Errorf("%d: %v", i, err)
			}
		default:
			got := contents(t, s)
			s.Close()
			// The last write is undone as a whole if the page that made it valid is lost.
			if got != want && got != before {
				t.Errorf("%d: opens with other contents", i)
			}
		}
	}
	if damaged < 30 {
		t.Errorf("only %d of the damaged files were noticed", damaged)
	}
}

// Every word that is 1 becomes 0: the marks of what is a bucket are among them,
// without which whole kinds would be missing and nobody would know.
func TestDamage_Marks(t *testing.T) {
	path := file(t)
	s := open(t, path, Options{})
	for i := range 3 {
		must[Object](t)(s.Create("configmaps", configMap(fmt.Sprint("c", i))))
	}
	before := ""
	for i := range 30 {
		before = contents(t, s)
		must[Object](t)(s.Create("pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: fmt.Sprint("p", i)}}))
	}
	want := contents(t, s)
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tried, noticed := 0, 0
	for at := 0; at+4 <= len(good); at += 4 {
		if native.Uint32(good[at:]) != 1 {
			continue
		}
		bad := bytes.Clone(good)
		clear(bad[at : at+4])
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		tried++
		s, err := Open(path, kinds, Options{})
		if err != nil {
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Errorf("at %d: %v", at, err)
			}
			noticed++
			continue
		}
		if got := contents(t, s); got != want && got != before {
			t.Errorf("at %d: opens with other contents", at)
		}
		s.Close()
	}
	if tried < 5 || noticed < 3 {
		t.Errorf("%d words, %d noticed", tried, noticed)
	}
	t.Logf("%d words, %d noticed", tried, noticed)
}

func contents(t *testing.T, s *Store) string {
	var b strings.Builder
	for _, k := range s.Kinds() {
		for _, o := range must[List](t)(s.List(k, Selector{}, 0, "")).Items {
			fmt.Fprintf(&b, "%v\n", o)
		}
	}
	return b.String()
}

func TestBackup(t *testing.T) {
	path := file(t)
	s := open(t, path, Options{})
	var last string
	for i := range 5 {
		must[Object](t)(s.Create("configmaps", configMap(fmt.Sprint(i))))
		last = must[string](t)(s.Backup())
		if again := must[string](t)(s.Backup()); again != last {
			t.Errorf("a second backup of the same: %s", again)
		}
	}
	all := must[[]string](t)(Backups(path))
	if len(all) != keepBackups || all[0] != last {
		t.Fatalf("backups %q", all)
	}
	st, err := os.Stat(last)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if _, err := Restore(path, kinds); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("restore of an open store: %v", err)
	}
	must[Object](t)(s.Create("configmaps", configMap("after")))
	s.Close()

	if err := os.Truncate(path, 9000); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err = Open(path, kinds, Options{}); !errors.As(err, &corrupt) || corrupt.Hint() == "" {
		t.Fatalf("a truncated store: %v", err)
	}
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("error %q", err)
	}
	// The newest backup is damaged too.
	if err := os.WriteFile(last, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	from := must[string](t)(Restore(path, kinds))
	if from != all[1] {
		t.Errorf("restored from %s, want %s", from, all[1])
	}
	s = open(t, path, Options{})
	if l := must[List](t)(s.List("configmaps", Selector{}, 0, "")); len(l.Items) != 4 || l.Revision != 4 {
		t.Errorf("%d objects, revision %d", len(l.Items), l.Revision)
	}
	if st, err := os.Stat(path + ".damaged"); err != nil || st.Size() != 9000 {
		t.Errorf("the damaged file: %v, %v", st, err)
	}
	s.Close()
	for _, b := range all {
		os.WriteFile(b, []byte("nothing"), 0o600)
	}
	if _, err := Restore(path, kinds); err == nil || !strings.Contains(err.Error(), "no good backup") {
		t.Errorf("without a good backup: %v", err)
	}
	if s = open(t, path, Options{}); s.Revision() != 4 {
		t.Error("a restore that fails changes the store")
	}
}

func TestSecrets(t *testing.T) {
	const password = "correct horse battery staple"
	path := file(t)
	s := open(t, path, Options{})
	must[Object](t)(s.Create("secrets", secret("s", password)))
	must[Object](t)(s.Create("configmaps", configMap("c", "in the open")))
	backup := must[string](t)(s.Backup())
	s.Close()
	for _, f := range []string{path, backup} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(password)) || !bytes.Contains(b, []byte("in the open")) {
			t.Errorf("%s holds the password, or not the rest", f)
		}
	}
	s = open(t, path, Options{})
	if o, err := s.Get("secrets", "default", "s"); err != nil || o.(*corev1.Secret).StringData["password"] != password {
		t.Errorf("%v, %v", o, err)
	}
	s.Close()

	key := path + ".key"
	st, err := os.Stat(key)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() != keySize {
		t.Errorf("key: %v, %v", st, err)
	}
	was, _ := os.ReadFile(key)
	var bad *KeyError
	for _, tt := range []struct {
		change func() error
		want   string
	}{
		{func() error { return os.Chmod(key, 0o640) }, "0600"},
		{func() error { return os.WriteFile(key, was[1:], 0o600) }, "32 bytes"},
		{func() error { return os.WriteFile(key, bytes.Repeat([]byte{1}, keySize), 0o600) }, "not the one"},
		{func() error { return os.Remove(key) }, "missing"},
		{func() error { return errors.Join(os.Remove(key), os.Symlink("/dev/zero", key)) }, "symbolic"},
	} {
		if err := tt.change(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if _, err := Open(path, kinds, Options{}); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
		os.Remove(key)
		if err := os.WriteFile(key, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s = open(t, path, Options{}); s.Revision() != 2 {
		t.Error("revision", strconv.FormatUint(s.Revision(), 10))
	}
	// One secret in the place of another.
	v := s.wrap(true, diskKey("secrets", []byte("default\x00a")), []byte("x"))
	if _, err := s.unwrap(true, diskKey("secrets", []byte("default\x00b")), v); err == nil {
		t.Error("a value opens in another place")
	}
	// One that claims not to be secret.
	if _, err := s.unwrap(true, []byte("k"), s.wrap(false, []byte("k"), []byte("{}"))); err == nil {
		t.Error("a secret may be plain")
	}
}
