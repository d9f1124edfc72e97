package network

import (
	"os"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for _, tt := range []struct {
		in, want string
	}{
		{"80:8080", "80:8080/tcp"},
		{"80:80", "80:80/tcp"},
		{"53:53/udp", "53:53/udp"},
		{"132:132/sctp", "132:132/sctp"},
		{"127.0.0.1:80:8080", "127.0.0.1:80:8080/tcp"},
		{"[::1]:80:8080/udp", "[::1]:80:8080/udp"},
		{"8000-8010:8000-8010", "8000-8010:8000-8010/tcp"},
		{"8000-8010:9000-9010", "8000-8010:9000-9010/tcp"},
		{"1-65535:1-65535", "1-65535:1-65535/tcp"},
		{"80", "0:80/tcp"},
		{"127.0.0.1::80", "127.0.0.1:0:80/tcp"},
	} {
		p, err := ParsePublish(tt.in)
		if err != nil || p.String() != tt.want {
			t.Errorf("%q: %s, %v; want %s", tt.in, p.String(), err, tt.want)
		}
	}
	for _, bad := range []string{
		"", ":", ":80", "80:", "a:80", "80:a", "0:80", "80:0", "65536:80", "80-79:80-79", "80-81:80", "80:80-81", "1-65535:2-65536", "80:80/", "80:80/icmp",
		"80:80/TCP", "::1:80:80", "[::1:80:80", "[fe80::1%lo]:80:80", "300.0.0.1:80:80", "1.2.3.4:5:80:80", "8000-8010", "-1:80", "+80:80", "80 :80",
	} {
		if p, err := ParsePublish(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, p)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"80:80", "[::1]:1-2:3-4/udp", "1.2.3.4::80/sctp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePublish(s)
		if err != nil {
			return
		}
		if p.Count == 0 || int(p.Container)+int(p.Count) > 65536 || int(p.Host)+int(p.Count) > 65536 || p.Container == 0 {
			t.Errorf("%q: %+v", s, p)
		}
		if p.Host == 0 {
			return
		}
		if q, err := ParsePublish(p.String()); err != nil || q != p {
			t.Errorf("%q: %+v, printed and read %+v, %v", s, p, q, err)
		}
	})
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{"a:1.2.3.4": "1.2.3.4", "a.b-c_d:::1": "::1", "x:[::1]": "::1", "x=1.2.3.4": "1.2.3.4", "x:host-gateway": "invalid IP"} {
		if e, err := ParseHost(in); err != nil || e.IP.String() != want {
			t.Errorf("%q: %+v, %v", in, e, err)
		}
	}
	for _, bad := range []string{"", "a", ":1.2.3.4", "a b:1.2.3.4", "a\n:1.2.3.4", "a:1.2.3.4\nb", "a:fe80::1%eth0", "a#:1.2.3.4"} {
		if e, err := ParseHost(bad); err == nil {
			t.Errorf("%q: %+v", bad, e)
		}
	}
}

func TestReadResolv(t *testing.T) {
	r := readResolv([]byte("# x\nnameserver 127.0.0.53\nnameserver 1.1.1.1\nnameserver fe80::1%eth0\nnameserver bad\nsearch a b\ndomain c\noptions x y\noptions z\nnameserver\n"))
	if len(r.servers) != 1 || r.servers[0].String() != "1.1.1.1" || !r.local || strings.Join(r.search, " ") != "c" || strings.Join(r.options, " ") != "x y z" {
		t.Errorf("got %+v", r)
	}
}

// Lines come and go in a file that stays the same, and does not grow for ever.
func TestHostLines(t *testing.T) {
	file := t.TempDir() + "/hosts"
	if err := writeFile(file, []byte("127.0.0.1\tlocalhost\n")); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		for _, line := range []string{"10.0.0.2\tone\n", "10.0.0.20\tone two\n"} {
			if err := appendLines(file, []byte(line)); err != nil {
				t.Fatal(err)
			}
			if err := appendLines(file, []byte(line)); err != nil { // twice is once
				t.Fatal(err)
			}
		}
		text := readText(t, file)
		if !strings.Contains(text, "\n10.0.0.2\tone\n") && !strings.Contains(text, "\n10.0.0.2\tone ") || !strings.Contains(text, "\n10.0.0.20\tone two\n") || strings.Count(text, "one") != 2 {
			t.Fatalf("got %q", text)
		}
		if err := dropLines(file, []byte("10.0.0.2\tone\n10.0.0.20\tone two\n")); err != nil {
			t.Fatal(err)
		}
	}
	if text := readText(t, file); strings.Contains(text, "one") || !strings.HasPrefix(text, "127.0.0.1\tlocalhost\n") || len(text) > 100 {
		t.Errorf("got %q", text)
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
