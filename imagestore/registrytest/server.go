// Package registrytest is a registry for tests: the distribution API on a
// loopback address, in memory, with faults on demand. It counts what it is asked
// for and records who sent which credentials, and it knows nothing of the client
// that it tests.
package registrytest

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Options of a server. The zero value: plain http, no login.
type Options struct {
	TLS            bool
	User, Password string        // wanted, as basic authentication or for a token
	Bearer         bool          // by token, from /token of this server or Realm
	Realm          string        // another token service
	TokenLife      time.Duration // after which a token is refused; 0: never
	Prefix         string        // of the API; "/v2" if empty
	NoReferrers    bool          // no API for referrers
	ReferrersPage  int           // so many of them on a page; 0: all
	NoMount        bool          // blobs of other repositories are not taken over
	ClientCerts    bool          // with TLS: clients are asked for a certificate
	Addr           string        // where to listen; a free port of the loopback if empty
}

// Request is one that came in.
type Request struct {
	Method, Path, Query, Range, Host string
	Authorization                    string
	Header                           http.Header
	ClientCert                       bool
}

// Server is a registry. Its methods may be used while it serves.
type Server struct {
	*httptest.Server
	o Options

	mu        sync.Mutex
	blobs     map[string]map[string][]byte   // repository, digest
	manifests map[string]map[string]manifest // repository, tag or digest
	uploads   map[string]*upload
	tokens    map[string]time.Time
	requests  []Request
	faults    []*Fault
	blobBytes *atomic.Int64 // another one after each Reset
	n         int
	down      chan struct{} // closed when the server goes
}

type manifest struct {
	mediaType string
	body      []byte
}

type upload struct {
	repo string
	b    []byte
}

// New starts a server; it ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = "/v2"
	}
	s := &Server{
		o: o, blobs: map[string]map[string][]byte{}, manifests: map[string]map[string]manifest{},
		uploads: map[string]*upload{}, tokens: map[string]time.Time{}, blobBytes: new(atomic.Int64), down: make(chan struct{}),
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if o.Addr != "" {
		l, err := net.Listen("tcp", o.Addr)
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that a test lets fail
	if o.ClientCerts {
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	}
	if o.TLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		close(s.down)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Host is the address with port, as in the name of an image.
func (s *Server) Host() string { return s.Listener.Addr().String() }

// Digest is the sha256 digest of b.
func Digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// AddBlob puts a blob into a repository.
func (s *Server) AddBlob(repo string, b []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addBlob(repo, b)
}

func (s *Server) addBlob(repo string, b []byte) string {
	if s.blobs[repo] == nil {
		s.blobs[repo] = map[string][]byte{}
	}
	d := Digest(b)
	s.blobs[repo][d] = b
	return d
}

// AddManifest puts a manifest into a repository, under its digest and tags.
func (s *Server) AddManifest(repo, mediaType string, b []byte, tags ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Digest(b)
	for _, ref := range append(tags, d) {
		s.addManifest(repo, ref, manifest{mediaType, b})
	}
	return d
}

func (s *Server) addManifest(repo, ref string, m manifest) {
	if s.manifests[repo] == nil {
		s.manifests[repo] = map[string]manifest{}
	}
	s.manifests[repo][ref] = m
}

// Blob returns what a repository has under a digest.
func (s *Server) Blob(repo, digest string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[repo][digest]
	return b, ok
}

// Manifest returns what a repository has under a tag or digest.
func (s *Server) Manifest(repo, ref string) (mediaType string, b []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.manifests[repo][ref]
	return m.mediaType, m.body, ok
}

// RemoveBlob takes a blob away.
func (s *Server) RemoveBlob(repo, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs[repo], digest)
}

// BlobBytes is how many bytes of blobs were sent so far.
func (s *Server) BlobBytes() int64 { return s.counter().Load() }

// counter counts the bytes of the requests that begin now.
func (s *Server) counter() *atomic.Int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blobBytes
}

// Requests returns what came in so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Count is how many requests with the method had text in their path.
func (s *Server) Count(method, text string) (n int) {
	for _, r := range s.Requests() {
		if r.Method == method && strings.Contains(r.Path, text) {
			n++
		}
	}
	return n
}

// Reset forgets the requests and counts of before, with what requests that a
// client has given up will still send.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.blobBytes = nil, new(atomic.Int64)
}

// ExpireTokens makes the server refuse all tokens that it gave out.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{
		Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Range: r.Header.Get("Range"), Host: r.Host,
		Authorization: r.Header.Get("Authorization"), Header: r.Header.Clone(), ClientCert: r.TLS != nil && len(r.TLS.PeerCertificates) > 0,
	})
	s.mu.Unlock()
	if r.URL.Path == "/token" {
		s.token(w, r)
		return
	}
	f := s.fault(r)
	if f != nil && f.before(s, w, r) {
		return
	}
	if !s.authorized(r) {
		if s.o.Bearer {
			realm := s.o.Realm
			if realm == "" {
				realm = s.URL + "/token"
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registrytest",scope="extra:scope:pull"`, realm))
		} else {
			w.Header().Set("WWW-Authenticate", `Basic realm="registrytest"`)
		}
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, s.o.Prefix+"/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if path == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	for _, part := range []string{"/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/"} {
		repo, rest, ok := strings.Cut(path, part)
		if !ok {
			continue
		}
		switch part {
		case "/blobs/uploads/":
			s.upload(w, r, repo, rest, f)
		case "/blobs/":
			s.blob(w, r, repo, rest, f)
		case "/manifests/":
			s.manifest(w, r, repo, rest, f)
		case "/referrers/":
			s.referrers(w, r, repo, rest)
		}
		return
	}
	http.NotFound(w, r)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func (s *Server) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(s.o.User+":"+s.o.Password))
}

func (s *Server) authorized(r *http.Request) bool {
	if s.o.User == "" && !s.o.Bearer {
		return true
	}
	got := r.Header.Get("Authorization")
	if !s.o.Bearer {
		return got == s.basic()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	expires, ok := s.tokens[strings.TrimPrefix(got, "Bearer ")]
	return ok && time.Now().Before(expires)
}

// token gives out tokens for a name and a password, or a refresh token that is
// the password; to everybody if no user is wanted.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	ok := s.o.User == "" || r.Header.Get("Authorization") == s.basic()
	if r.Method == http.MethodPost {
		ok = r.PostFormValue("grant_type") == "refresh_token" && r.PostFormValue("refresh_token") == s.o.Password
	}
	if !ok {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong password")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	name := "token-" + strconv.Itoa(s.n)
	life := s.o.TokenLife
	if life == 0 {
		life = time.Hour
	}
	s.tokens[name] = time.Now().Add(life)
	_ = json.NewEncoder(w).Encode(map[string]any{"token": name, "expires_in": 300})
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request, repo, digest string, f *Fault) {
	b, ok := s.Blob(repo, digest)
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		return
	}
	status, whole := http.StatusOK, b
	if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && (f == nil || !f.NoRange) {
		off, err := strconv.Atoi(strings.TrimSuffix(from, "-"))
		if err != nil || off >= len(b) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(b)-1, len(b)))
		if f != nil && f.Part != "" {
			w.Header().Set("Content-Range", f.Part)
		}
		if f != nil && f.Part == "none" {
			w.Header().Del("Content-Range")
		}
		status, b = http.StatusPartialContent, b[off:]
	}
	s.body(w, r, status, b, len(whole)-len(b), f, s.counter())
}

// body sends b, which begins at off of the whole, with the fault if there is one.
func (s *Server) body(w http.ResponseWriter, r *http.Request, status int, b []byte, off int, f *Fault, count *atomic.Int64) {
	if f != nil {
		f.send(s, w, r, status, b, off, count)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	s.write(w, b, count)
}

func (s *Server) write(w io.Writer, b []byte, count *atomic.Int64) {
	for len(b) > 0 {
		n, err := w.Write(b[:min(len(b), 64<<10)])
		if count != nil {
			count.Add(int64(n))
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, repo, ref string, f *Fault) {
	if r.Method == http.MethodPut {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		d := Digest(b)
		if strings.Contains(ref, ":") && ref != d {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
			return
		}
		if missing := s.missing(repo, b); missing != "" {
			fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", missing)
			return
		}
		s.mu.Lock()
		for _, name := range []string{ref, d} {
			s.addManifest(repo, name, manifest{r.Header.Get("Content-Type"), b})
		}
		s.mu.Unlock()
		var about struct{ Subject *struct{ Digest string } }
		if !s.o.NoReferrers && json.Unmarshal(b, &about) == nil && about.Subject != nil {
			w.Header().Set("OCI-Subject", about.Subject.Digest)
		}
		w.Header().Set("Docker-Content-Digest", d)
		w.WriteHeader(http.StatusCreated)
		return
	}
	mediaType, b, ok := s.Manifest(repo, ref)
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Docker-Content-Digest", Digest(b))
	w.Header().Set("Content-Type", mediaType)
	if f != nil && f.ContentType != "" {
		w.Header().Set("Content-Type", f.ContentType)
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		return
	}
	s.body(w, r, http.StatusOK, b, 0, f, nil)
}

// missing names something that a manifest refers to and the repository has not.
func (s *Server) missing(repo string, b []byte) string {
	type ref struct{ Digest string }
	var m struct {
		Config    *ref
		Layers    []ref
		Manifests []ref
	}
	if json.Unmarshal(b, &m) != nil {
		return "not JSON"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, l := range m.Layers {
		if _, ok := s.blobs[repo][l.Digest]; !ok {
			return l.Digest
		}
	}
	for _, c := range m.Manifests {
		if _, ok := s.manifests[repo][c.Digest]; !ok {
			return c.Digest
		}
	}
	return ""
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request, repo, id string, f *Fault) {
	location := func(id string) string {
		return s.o.Prefix + "/" + repo + "/blobs/uploads/" + id + "?state=" + url.QueryEscape("a b")
	}
	if r.Method == http.MethodPost {
		s.mu.Lock()
		defer s.mu.Unlock()
		digest, from := r.URL.Query().Get("mount"), r.URL.Query().Get("from")
		if b, ok := s.blobs[from][digest]; ok && !s.o.NoMount {
			s.addBlob(repo, b)
			w.WriteHeader(http.StatusCreated)
			return
		}
		s.n++
		id := "upload-" + strconv.Itoa(s.n)
		s.uploads[id] = &upload{repo: repo}
		w.Header().Set("Location", location(id))
		w.WriteHeader(http.StatusAccepted)
		return
	}
	s.mu.Lock()
	u := s.uploads[id]
	s.mu.Unlock()
	if u == nil || r.URL.Query().Get("state") != "a b" {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "upload unknown")
		return
	}
	if r.Method != http.MethodGet {
		if cr := r.Header.Get("Content-Range"); cr != "" && !strings.HasPrefix(cr, strconv.Itoa(len(u.b))+"-") {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		in := io.Reader(r.Body)
		if f != nil && f.Cut > 0 {
			in = io.LimitReader(in, int64(f.Cut))
		}
		b, err := io.ReadAll(in)
		s.mu.Lock()
		u.b = append(u.b, b...)
		s.blobBytes.Add(int64(len(b)))
		s.mu.Unlock()
		if f != nil && f.Cut > 0 || err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if r.Method == http.MethodPut {
		if want := r.URL.Query().Get("digest"); Digest(u.b) != want {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
			return
		}
		s.mu.Lock()
		d := s.addBlob(repo, u.b)
		delete(s.uploads, id)
		s.mu.Unlock()
		w.Header().Set("Docker-Content-Digest", d)
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.Header().Set("Location", location(id))
	w.Header().Set("Range", "0-"+strconv.Itoa(max(len(u.b)-1, 0)))
	if r.Method == http.MethodGet {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (s *Server) referrers(w http.ResponseWriter, r *http.Request, repo, digest string) {
	if s.o.NoReferrers {
		fail(w, http.StatusNotFound, "NOT_FOUND", "no such API")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []map[string]any{}
	for ref, m := range s.manifests[repo] {
		var body struct {
			ArtifactType string
			Subject      *struct{ Digest string }
		}
		if strings.Contains(ref, ":") && json.Unmarshal(m.body, &body) == nil && body.Subject != nil && body.Subject.Digest == digest {
			list = append(list, map[string]any{"mediaType": m.mediaType, "digest": ref, "size": len(m.body), "artifactType": body.ArtifactType})
		}
	}
	slices.SortFunc(list, func(a, b map[string]any) int { return strings.Compare(a["digest"].(string), b["digest"].(string)) })
	if n := s.o.ReferrersPage; n > 0 {
		at, _ := strconv.Atoi(r.URL.Query().Get("at"))
		next := at + n
		if next < len(list) {
			w.Header().Set("Link", fmt.Sprintf(`<%s?at=%d>; rel="next"`, r.URL.Path, next))
		}
		list = list[min(at, len(list)):min(next, len(list))]
	}
	w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list})
}
