package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Credential is what a host accepts. The empty one is nobody's.
type Credential struct {
	Username, Password string
	IdentityToken      string // refresh token of an OAuth 2 service
	RegistryToken      string // bearer token as it is
}

func (c Credential) empty() bool { return c == Credential{} }

// Credentials know what to log in with.
type Credentials interface {
	// Get returns the credential for a registry's host, as in an image's name,
	// and a repository there; the empty one if there is none.
	Get(ctx context.Context, host, repository string) (Credential, error)
}

// One is the same credential for one host.
type One struct {
	Host string
	Credential
}

// Get implements [Credentials].
func (o One) Get(_ context.Context, host, _ string) (Credential, error) {
	if host != o.Host {
		return Credential{}, nil
	}
	return o.Credential, nil
}

// Files are docker's config.json and podman's auth.json, which have the same
// form. The first file that knows a host counts. Files are read when they are
// needed, so that a login meanwhile has an effect.
type Files struct{ Paths []string }

// maxConfig bounds a file of credentials.
const maxConfig = 16 << 20

// DefaultCredentials are those of docker and podman: authfile if it is not
// empty, else $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json or
// ~/.docker/config.json, and podman's two places. [Files.Put] writes to the first.
func DefaultCredentials(authfile string) *Files {
	if authfile == "" {
		authfile = os.Getenv("REGISTRY_AUTH_FILE")
	}
	if authfile != "" {
		return &Files{Paths: []string{authfile}}
	}
	home, _ := os.UserHomeDir()
	f := &Files{}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		f.Paths = append(f.Paths, filepath.Join(dir, "config.json"))
	} else if home != "" {
		f.Paths = append(f.Paths, filepath.Join(home, ".docker/config.json"))
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		f.Paths = append(f.Paths, filepath.Join(dir, "containers/auth.json"))
	} else {
		f.Paths = append(f.Paths, "/run/containers/"+strconv.Itoa(os.Geteuid())+"/auth.json")
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		f.Paths = append(f.Paths, filepath.Join(dir, "containers/auth.json"))
	} else if home != "" {
		f.Paths = append(f.Paths, filepath.Join(home, ".config/containers/auth.json"))
	}
	return f
}

// serverKey is the key under which files and helpers have a host: docker keeps
// to the one that its registry had in 2014.
func serverKey(host string) string {
	if host == "docker.io" {
		return "https://index.docker.io/v1/"
	}
	return host
}

// keyHost is the host that a key stands for; docker and podman have written
// URLs, too.
func keyHost(key string) (host, path string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, path, _ = strings.Cut(key, "/")
	path = strings.Trim(path, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	if path == "v1" || path == "v2" {
		path = ""
	}
	return host, path
}

// configFile is the part of config.json that is about credentials.
type configFile struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

func readConfig(path string) (*configFile, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxConfig {
		return nil, nil, fmt.Errorf("%q is no file of credentials", path)
	}
	b := make([]byte, st.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return nil, nil, err
	}
	var c configFile
	if strings.TrimSpace(string(b)) == "" {
		return &c, nil, nil
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, nil, fmt.Errorf("%q: %w", path, err)
	}
	return &c, b, nil
}

// helper is the credential helper that is responsible for a host, if one is.
func (c *configFile) helper(host string) string {
	for key, name := range c.CredHelpers {
		if h, path := keyHost(key); h == host && path == "" {
			return name
		}
	}
	return c.CredsStore
}

// Get implements [Credentials].
func (f *Files) Get(ctx context.Context, host, repository string) (Credential, error) {
	for _, path := range f.Paths {
		c, _, err := readConfig(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return Credential{}, err
		}
		if name := c.helper(host); name != "" {
			cred, err := runHelper(ctx, name, "get", []byte(serverKey(host)))
			if err != nil || !cred.empty() {
				return cred, err
			}
		}
		// The longest key wins: podman has credentials for parts of a host.
		best, bestLen := "", -1
		for key := range c.Auths {
			h, path := keyHost(key)
			if h != host || path != "" && path != repository && !strings.HasPrefix(repository, path+"/") {
				continue
			}
			if len(path) > bestLen || len(path) == bestLen && key < best {
				best, bestLen = key, len(path)
			}
		}
		if bestLen < 0 {
			continue
		}
		a := c.Auths[best]
		cred := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Auth != "" {
			b, err := base64.StdEncoding.DecodeString(strings.TrimRight(a.Auth, "\x00"))
			name, password, ok := strings.Cut(string(b), ":")
			if err != nil || !ok {
				return Credential{}, fmt.Errorf("%q: auths[%q].auth is not a name and a password in base64", path, best)
			}
			cred.Username, cred.Password = name, strings.TrimRight(password, "\x00")
		}
		if !cred.empty() {
			return cred, nil
		}
	}
	return Credential{}, nil
}

// Put keeps a credential in the first file, or with the helper that the file
// names for the host, and tells where. Everything else in the file stays.
func (f *Files) Put(ctx context.Context, host string, cred Credential) (where string, err error) {
	path := f.Paths[0]
	err = f.change(path, func(c *configFile, auths map[string]json.RawMessage) (bool, error) {
		entry := map[string]string{}
		if name := c.helper(host); name != "" {
			where = "docker-credential-" + name
			secret, user := cred.Password, cred.Username
			if cred.IdentityToken != "" {
				secret, user = cred.IdentityToken, "<token>"
			}
			b, err := json.Marshal(map[string]string{"ServerURL": serverKey(host), "Username": user, "Secret": secret})
			if err != nil {
				return false, err
			}
			if _, err := runHelper(ctx, name, "store", b); err != nil {
				return false, err
			}
			// docker keeps an empty entry to remember that there is one.
		} else {
			where = path
			entry["auth"] = base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
			if cred.IdentityToken != "" {
				entry["identitytoken"] = cred.IdentityToken
			}
		}
		b, err := json.Marshal(entry)
		if err != nil {
			return false, err
		}
		removeKeys(auths, host)
		auths[serverKey(host)] = b
		return true, nil
	})
	return where, err
}

// removeKeys removes every spelling of a host.
func removeKeys(auths map[string]json.RawMessage, host string) (removed bool) {
	for key := range auths {
		if h, path := keyHost(key); h == host && path == "" {
			delete(auths, key)
			removed = true
		}
	}
	return removed
}

// Remove forgets the credential of a host, in every file and with every helper
// that has it, and tells whether there was one.
func (f *Files) Remove(ctx context.Context, host string) (removed bool, err error) {
	for _, path := range f.Paths {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		err := f.change(path, func(c *configFile, auths map[string]json.RawMessage) (bool, error) {
			if name := c.helper(host); name != "" {
				cred, err := runHelper(ctx, name, "get", []byte(serverKey(host)))
				if err != nil {
					return false, err
				}
				if !cred.empty() {
					if _, err := runHelper(ctx, name, "erase", []byte(serverKey(host))); err != nil {
						return false, err
					}
					removed = true
				}
			}
			if removeKeys(auths, host) {
				removed = true
				return true, nil
			}
			return false, nil
		})
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// change rewrites a file: f changes auths and says whether anything changed. The
// file is replaced by rename, with mode 0600, and members that we do not know
// stay as they are. Where the path is a symbolic link, what it leads to is replaced.
func (f *Files) change(path string, change func(*configFile, map[string]json.RawMessage) (bool, error)) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(dir) // two logins at once must not lose one
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	c, b, err := readConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = &configFile{}, nil
	}
	if err != nil {
		return err
	}
	all, auths := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if b != nil {
		if err := json.Unmarshal(b, &all); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		if a, ok := all["auths"]; ok {
			if err := json.Unmarshal(a, &auths); err != nil {
				return fmt.Errorf("%q: auths: %w", path, err)
			}
		}
	}
	if auths == nil {
		auths = map[string]json.RawMessage{}
	}
	changed, err := change(c, auths)
	if err != nil || !changed {
		return err
	}
	if all["auths"], err = json.Marshal(auths); err != nil {
		return err
	}
	out, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(path, append(out, '\n'))
}

// replaceFile writes a file that only its owner can read; a reader, and a
// machine that loses power, has the old content or the new.
func replaceFile(path string, content []byte) (err error) {
	t, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			t.Close()
			_ = os.Remove(t.Name())
		}
	}()
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && int(st.Uid) != os.Geteuid() { // sudo must not take the file over
		if err = t.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if _, err = t.Write(content); err != nil {
		return err
	}
	if err = t.Sync(); err != nil {
		return err
	}
	if err = t.Close(); err != nil {
		return err
	}
	return os.Rename(t.Name(), path)
}
