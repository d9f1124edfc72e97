package registry

import (
	"net/http"
	"net/url"
	"reflect"
	"testing"
	"time"
)

// Plain http is for loopback addresses and for those who ask for it.
func TestEndpoint_Plain(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "x.localhost": true, "127.0.0.1": true, "127.1.2.3:80": true, "[::1]:5000": true,
		"registry.example": false, "127.0.0.1.example": false, "localhost.example:5000": false, "10.0.0.1:5000": false, "[fe80::1]": false, "notlocalhost": false,
	} {
		for _, insecure := range []bool{false, true} {
			e, err := New(Options{Insecure: insecure}).newEndpoint(host, "", security{}, false)
			if err != nil {
				t.Fatal(err)
			}
			if e.scheme != "https" || e.fallback != (want || insecure) {
				t.Errorf("%s, insecure %v: %s, fallback %v", host, insecure, e.scheme, e.fallback)
			}
			if skip := e.own.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify; skip != insecure {
				t.Errorf("%s, insecure %v: skips verification: %v", host, insecure, skip)
			}
		}
	}
}

func TestEndpoint_Owns(t *testing.T) {
	e, err := New(Options{}).newEndpoint("docker.io", "", security{}, false)
	if err != nil {
		t.Fatal(err)
	}
	for u, want := range map[string]bool{
		"https://registry-1.docker.io/v2/": true, "https://REGISTRY-1.docker.io:443/x": true,
		"http://registry-1.docker.io/v2/": false, "https://registry-1.docker.io:444/": false, "https://x.registry-1.docker.io/": false,
		"https://docker.io/": false, "https://registry-1.docker.io.example/": false,
	} {
		p, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.owns(p); got != want {
			t.Errorf("owns(%s) = %v", u, got)
		}
	}
}

// A mirror counts however the file gives it, in its place.
func TestParseHosts_Forms(t *testing.T) {
	for text, want := range map[string][]string{
		"[host.\"https://a\"]\n[host.\"https://b\"]":                                                    {"a", "b"},
		"[host.\"https://a\".header]\nx = \"1\"\n[host.\"https://b\"]":                                  {"a", "b"},
		"host.\"https://a\".capabilities = [\"pull\"]\nhost.\"https://b\".skip_verify = true":           {"a", "b"},
		"[host.\"https://b\"]\n[host.\"https://a\".header]\nx = \"1\"":                                  {"b", "a"},
		"[host.\"https://b\".header]\nx = \"1\"\n[host.\"https://a\"]\n[host.\"https://b\"]":            {"b", "a"},
		"[host]\n\"https://b\" = { capabilities = [\"pull\"] }\n\"https://a\" = { skip_verify = true }": {"b", "a"},
		"host = { \"https://b\" = {}, \"https://a\" = { skip_verify = true } }":                         {"b", "a"},
		"[header]\nhost = [\"x\"]": nil,
	} {
		list, err := New(Options{}).parseHosts("registry.example", "", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		var got []string
		for _, e := range list {
			got = append(got, e.host)
		}
		if want := append(want, "registry.example"); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// A token service by plain http must have the name of the registry, which is spoken
// to by plain http itself.
func TestCheckRealm(t *testing.T) {
	for _, tt := range []struct {
		server, realm string
		want          bool
	}{
		{"http://registry.example:5000", "http://registry.example:5000/token", true},
		{"http://registry.example:5000", "http://REGISTRY.example:5001/token", true},
		{"http://registry.example:5000", "http://registry.example/token", true},
		{"http://registry.example:5000", "https://auth.example/token", true},
		{"http://registry.example:5000", "http://auth.example:5000/token", false},
		{"http://registry.example:5000", "http://x.registry.example:5000/token", false},
		{"http://registry.example:5000", "http://localhost/token", false},
		{"http://127.0.0.1:5000", "http://127.0.0.1:5001/token", true},
		{"http://127.0.0.1:5000", "http://127.0.0.2:5000/token", false},
		{"http://localhost:5000", "http://127.0.0.1:5000/token", false},
		{"http://[::1]:5000", "http://[::1]:5001/token", true},
		{"https://registry.example", "https://auth.example/token", true},
		{"https://registry.example", "http://registry.example/token", false},
		{"https://localhost", "http://localhost/token", false},
		{"http://registry.example", "ftp://registry.example/token", false},
	} {
		e, err := New(Options{}).newEndpoint("registry.example", tt.server, security{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checkRealm(e, tt.realm); (err == nil) != tt.want {
			t.Errorf("%s names %s: %v, want it asked: %v", tt.server, tt.realm, err, tt.want)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	for in, want := range map[string][]challenge{
		`Bearer realm="https://a/token",service="s",scope="repository:a:pull,push"`: {{"bearer", map[string]string{"realm": "https://a/token", "service": "s", "scope": "repository:a:pull,push"}}},
		`Basic realm="a \"b\" \\"`:                            {{"basic", map[string]string{"realm": `a "b" \`}}},
		`Negotiate, Basic realm=x , bearer Realm = "y" , a=b`: {{"negotiate", map[string]string{}}, {"basic", map[string]string{"realm": "x"}}, {"bearer", map[string]string{"realm": "y", "a": "b"}}},
		`Bearer realm="unfinished`:                            {{"bearer", map[string]string{"realm": "unfinished"}}},
		`=`:                                                   nil,
		`"quoted"`:                                            nil,
		``:                                                    nil,
	} {
		if got := parseChallenges([]string{in}); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="s"`)
	f.Add(`a b=",c`)
	f.Fuzz(func(t *testing.T, s string) {
		if n := len(parseChallenges([]string{s})); n > len(s) {
			t.Errorf("%d challenges in %d bytes", n, len(s))
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "99999999999999": (1 << 31) * time.Second, "soon": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0,
	} {
		if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {in}}}, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
	c := New(Options{})
	for n := 1; n < 40; n++ {
		most := min(c.o.Backoff<<min(n-1, 10), 30*time.Second)
		if got := c.backoff(n, nil); got < most/2 || got > most {
			t.Errorf("before attempt %d: %v, want %v to %v", n, got, most/2, most)
		}
	}
}
