package compose

import (
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/orchestrate/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

func options() Options {
	env := map[string]string{"LOG": "debug", "HOME": "/root", "EMPTY": ""}
	files := map[string]string{"/app/web.env": "# comment\nA=1\nDB=\"overridden\"\nexport B='x y'\nC=3 # three\n", "/app/key.pem": "secret"}
	return Options{
		Dir: "/app",
		Env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		File: func(path string) ([]byte, error) {
			if t, ok := files[path]; ok {
				return []byte(t), nil
			}
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		},
	}
}

// TestConvert compares with testdata/app.golden, and reads the result as minirun
// kube apply does: what comes out is valid, and supported.
func TestConvert(t *testing.T) {
	text, err := os.ReadFile("testdata/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, notes, err := Convert(text, options())
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, n := range notes {
		out.WriteString("# " + n + "\n")
	}
	registry := api.NewRegistry()
	for _, o := range objects {
		doc, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		all, err := registry.Decode(doc)
		if err != nil {
			t.Fatal(err)
		}
		if err := api.Strict(all); err != nil {
			t.Error(err)
		}
		if wrong, _ := api.Effective(all); len(wrong) > 0 {
			t.Error(wrong)
		}
		obj := all[0].Object
		obj.SetNamespace("default")
		if err := api.Prepare(all[0].Kind, obj); err != nil {
			t.Error(err)
		}
		if err := api.Validate(all[0].Kind, obj, nil); err != nil {
			t.Error(err)
		}
		y, err := api.YAML(doc)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n" + string(y))
	}
	golden := filepath.Join("testdata", "app.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s", out.String())
	}
}

func TestConvertErrors(t *testing.T) {
	for text, want := range map[string]string{
		"services: {a: {image: x, imge: y}}":                                  `line 1, column 26: services.a.imge: unknown key "imge"`,
		"services: {a: {}}":                                                   "there is no image",
		"service: {}":                                                         `line 1, column 1: service: unknown key "service"`,
		"services: {a: {image: x, ports: [x]}}":                               `services.a.ports[0]: "x" is no port`,
		"services: {a: {image: x, ports: ['1-2:3']}}":                         "not equally many",
		"services: {a: {image: x, volumes: ['v:/x']}}":                        `the volume "v" is not among`,
		"services: {a: {image: x, volumes: ['./v:x']}}":                       `the target "x" is not absolute`,
		"services: {a: {image: x, configs: [c]}}":                             `"c" is not among the configs`,
		"services: {a: {image: x, user: root}}":                               "users and groups are numbers",
		"services: {a: {image: x, mem_limit: 5x}}":                            "want a size",
		"services: {a: {image: x, ports: ['80:80'], scale: 2}}":               "cannot all have the same port",
		"services: {a: {image: x, healthcheck: {interval: 5s}}}":              "there is no test",
		"services: {a: {image: x, env_file: none.env}}":                       "/app/none.env",
		"services: {a: {image: '${X:?say which}'}}":                           "the variable X must be set: say which",
		"services: {a: {image: '$'}}":                                         "a single $",
		"services: {a: {image: x, deploy: {resources: {limits: {gpus: 1}}}}}": `unknown key "gpus"`,
		"services: {a: {image: x, network_mode: 'service:b'}}":                "has no counterpart",
		"services: {a: {image: x, restart: sometimes}}":                       "want no, always",
		"services: [a]": "want a map",
		"a: [":          "did not find expected node content",
		"":              "empty",
		"secrets: {s: {external: true}}\nservices: {a: {image: x}}":                              "external is not supported",
		"services: {a: {image: x, command: \"a 'b\"}}":                                           "a quote is not closed",
		"services: {a: {image: x, healthcheck: {test: [CURL, x]}}}":                              "want NONE",
		"services: {a: {image: x, volumes: ['a:/b:weird']}}\nvolumes: {a: {}}":                   `there is no mode "weird"`,
		"services: {a: {image: x, extra_hosts: ['h:host-gateway']}}":                             "host-gateway",
		"services: {a: {image: x, volumes: [{type: npipe, target: /x, source: a}]}}":             `there is no type "npipe"`,
		"services: {a: {image: x, stop_grace_period: soon}}":                                     "want a time",
		"services: {a: {image: x, secrets: [{source: s, mode: 9}]}}\nsecrets: {s: {content: x}}": "octal",
	} {
		_, _, err := Convert([]byte(text), options())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestInterpolate(t *testing.T) {
	env := options().Env
	for in, want := range map[string]string{
		"a": "a", "$LOG": "debug", "${LOG}x": "debugx", "$LOGx": "", "$$LOG": "$LOG", "${NONE:-d}": "d", "${EMPTY:-d}": "d", "${EMPTY-d}": "", "${LOG:-d}": "debug",
		"${LOG:+y}": "y", "${NONE:+y}": "", "${EMPTY+y}": "y", "${NONE:-${LOG:-z}}": "debug", "${LOG:?no}": "debug", "${NONE:-}": "",
	} {
		if got, err := interpolate(in, env); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"$", "${", "${}", "${1}", "${LOG!x}", "${NONE?no}", "${EMPTY:?no}"} {
		if got, err := interpolate(in, env); err == nil {
			t.Errorf("%s: %q, want an error", in, got)
		}
	}
}
