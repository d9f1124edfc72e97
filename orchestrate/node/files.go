package node

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxHostname is what a label of DNS can have.
const maxHostname = 63

// hostname is that of a pod.
func hostname(pod *corev1.Pod) string {
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > maxHostname {
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	if fqdn := pod.Spec.SetHostnameAsFQDN; fqdn != nil && *fqdn && pod.Spec.Subdomain != "" {
		if full := name + "." + domainOf(pod, DefaultClusterDomain); len(full) <= 64 {
			return full
		}
	}
	return name
}

// domainOf is the domain of a pod with a subdomain.
func domainOf(pod *corev1.Pod, cluster string) string {
	return pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + cluster
}

// writeFiles writes the files that a pod has below /etc.
func (w *worker) writeFiles(pod *corev1.Pod, ips []netip.Addr) error {
	dir := filepath.Join(w.dir, filesDir)
	resolv, err := w.n.resolvConf(pod)
	if err != nil {
		return err
	}
	var host []byte
	if pod.Spec.HostNetwork {
		if host, err = os.ReadFile("/etc/hosts"); err != nil {
			host = nil
		}
	}
	return errors.Join(
		writeFile(dir, "hosts", []byte(hostsFile(pod, ips, string(host), w.n.o.ClusterDomain)), 0o644),
		writeFile(dir, "hostname", []byte(hostname(pod)+"\n"), 0o644),
		writeFile(dir, "resolv.conf", []byte(resolv), 0o644),
	)
}

// hostsFile is /etc/hosts of a pod, the text is a kubelet's. host is that of the
// host, for a pod in its network.
func hostsFile(pod *corev1.Pod, ips []netip.Addr, host, cluster string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n" + host)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if pod.Spec.Subdomain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, hostname(pod), domainOf(pod, cluster), hostname(pod))
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname(pod))
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// resolver is what resolv.conf(5) says.
type resolver struct{ servers, search, options []string }

func (r *resolver) String() string {
	var b strings.Builder
	if len(r.search) > 0 {
		b.WriteString("search " + strings.Join(r.search, " ") + "\n")
	}
	for _, s := range r.servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(r.options) > 0 {
		b.WriteString("options " + strings.Join(r.options, " ") + "\n")
	}
	return b.String()
}

func parseResolv(text string) (r resolver) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.servers = append(r.servers, f[1])
		case "search", "domain":
			r.search = f[1:]
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

// resolvConf is /etc/resolv.conf of a pod, by its policy.
func (n *Node) resolvConf(pod *corev1.Pod) (string, error) {
	hostText, err := hostResolv()
	if err != nil {
		return "", err
	}
	r := podResolver(pod, parseResolv(hostText), n.o.ClusterDNS, n.o.ClusterDomain)
	return r.String(), nil
}

// hostResolv is the host's; where systemd-resolved listens on loopback, which is
// another one in the pod, its own servers.
func hostResolv() (string, error) {
	raw, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err == nil && strings.Contains(string(raw), "127.0.0.53") {
		if real, e := os.ReadFile("/run/systemd/resolve/resolv.conf"); e == nil {
			raw = real
		}
	}
	return string(raw), err
}

func podResolver(pod *corev1.Pod, host resolver, dns []netip.Addr, domain string) resolver {
	var r resolver
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || len(dns) == 0 && policy != corev1.DNSNone {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		r = resolver{servers: slices.Clone(host.servers), search: slices.Clone(host.search), options: slices.Clone(host.options)}
		if !pod.Spec.HostNetwork { // loopback is the pod's own there
			r.servers = slices.DeleteFunc(r.servers, func(s string) bool {
				a, err := netip.ParseAddr(s)
				return err == nil && a.IsLoopback()
			})
		}
	default: // ClusterFirst
		for _, a := range dns {
			r.servers = append(r.servers, a.String())
		}
		r.search = append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, host.search...)
		r.options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		add := func(to *[]string, what []string) {
			for _, s := range what {
				if !slices.Contains(*to, s) {
					*to = append(*to, s)
				}
			}
		}
		add(&r.servers, c.Nameservers)
		add(&r.search, c.Searches)
		for _, o := range c.Options {
			text := o.Name
			r.options = slices.DeleteFunc(r.options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			if o.Value != nil && *o.Value != "" {
				text += ":" + *o.Value
			}
			r.options = append(r.options, text)
		}
	}
	return r
}

// readLines is for small files of the kernel.
func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines, s.Err()
}
