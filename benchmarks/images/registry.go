package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// serveRegistry answers pulls of the one image in dir, whatever its name, on a loopback
// address. It prints the address first, and ends with its standard input.
func serveRegistry(dir string) error {
	var g generated
	text, err := os.ReadFile(filepath.Join(dir, "generated.json"))
	if err == nil {
		err = json.Unmarshal(text, &g)
	}
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		_, what, isManifest := strings.Cut(r.URL.Path, "/manifests/")
		if isManifest && !strings.Contains(what, ":") {
			what = g.Manifest.Digest
		}
		if !isManifest {
			_, what, _ = strings.Cut(r.URL.Path, "/blobs/")
		}
		switch {
		case r.URL.Path == "/v2/":
			return
		case !strings.HasPrefix(what, "sha256:") || strings.ContainsAny(what, "/\\"):
			http.NotFound(w, r)
			return
		case isManifest:
			w.Header().Set("Content-Type", manifestType)
		default:
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		w.Header().Set("Docker-Content-Digest", what)
		http.ServeFile(w, r, filepath.Join(dir, what))
	}))
}
