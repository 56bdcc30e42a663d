// devcluster runs a real Kubernetes control plane in ONE process on 127.0.0.1:
// etcd (embedded) + kube-apiserver + the garbage-collector, namespace and
// service-account controllers. No nodes, no kubelet: pods stay Pending.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		os.Exit(1)
	}
}

func run() error {
	t0 := time.Now()
	dir := flag.String("dir", "", "state directory (kept if given; default: a temporary one, removed at exit)")
	port := flag.Int("port", 0, "API server port on 127.0.0.1 (0: a free one)")
	kubeconfig := flag.String("kubeconfig", "", "where to write the kubeconfig (default DIR/kubeconfig)")
	fsync := flag.Bool("fsync", false, "let etcd fsync (slower; survives a power cut)")
	controllers := flag.Bool("controllers", true, "run garbage collector, namespace and serviceaccount controllers")
	lifeline := flag.Bool("lifeline", false, "end when standard input closes: nothing is left behind when the parent is killed")
	remove := flag.Bool("remove", false, "remove the state directory at the end, also when the parent was killed")
	verbosity := flag.Int("v", 0, "klog verbosity of the API server")
	flag.Parse() // what follows "--" goes to kube-apiserver as it is

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *lifeline {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}

	if *dir == "" {
		d, err := os.MkdirTemp("", "devcluster-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(d)
		*dir = d
	}
	var err error
	if *dir, err = filepath.Abs(*dir); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	started := false
	defer func() {
		if *remove && (started || ctx.Err() != nil) { // else the logs say why it did not start
			os.RemoveAll(*dir)
		}
	}()
	logFile, err := os.Create(filepath.Join(*dir, "server.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	klog.LogToStderr(false)
	klog.SetOutput(logFile)
	if *kubeconfig == "" {
		*kubeconfig = filepath.Join(*dir, "kubeconfig")
	}
	pki, err := ensurePKI(filepath.Join(*dir, "pki"))
	if err != nil {
		return err
	}

	etcdURL, stopEtcd, err := startEtcd(filepath.Join(*dir, "etcd"), *fsync)
	for tries := 1; tries < 5 && errors.Is(err, syscall.EADDRINUSE); tries++ {
		etcdURL, stopEtcd, err = startEtcd(filepath.Join(*dir, "etcd"), *fsync)
	}
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer stopEtcd()

	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		return err
	}
	server := "https://" + ln.Addr().String()
	if err := pki.writeKubeconfig(*kubeconfig, server); err != nil {
		return err
	}

	apiCtx, stopAPI := context.WithCancel(context.Background())
	defer stopAPI()
	done := make(chan error, 1)
	go func() {
		done <- runAPIServer(apiCtx, ln, pki, etcdURL, append([]string{fmt.Sprintf("--v=%d", *verbosity)}, flag.Args()...))
	}()

	cfg, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Burst = 200, 400
	if err := waitReady(ctx, cfg, done); err != nil {
		return err
	}
	tReady := time.Since(t0)
	if *controllers {
		if err := startControllers(apiCtx, cfg); err != nil {
			return fmt.Errorf("controllers: %w", err)
		}
	}
	started = true
	fmt.Printf("ready in %.1fs (API %.1fs): %s\nexport KUBECONFIG=%s\n", time.Since(t0).Seconds(), tReady.Seconds(), server, *kubeconfig)

	select {
	case <-ctx.Done():
		stop() // a second Ctrl-C kills
		stopAPI()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
		}
		return nil
	case err := <-done:
		return fmt.Errorf("kube-apiserver ended: %w", err)
	}
}

func startEtcd(dir string, fsync bool) (string, func(), error) {
	cfg := embed.NewConfig()
	cfg.Name = "devcluster"
	cfg.Dir = dir
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{filepath.Join(filepath.Dir(dir), "etcd.log")}
	cfg.UnsafeNoFsync = !fsync
	cfg.QuotaBackendBytes = 2 << 30
	client, peer, err := freeURLs()
	if err != nil {
		return "", nil, err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return "", nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return "", nil, err
	case <-time.After(60 * time.Second):
		e.Close()
		return "", nil, fmt.Errorf("not ready after 60s")
	}
	return client.String(), e.Close, nil
}

// freeURLs gives two that nobody listens on. Anyone may take one before etcd has it: startEtcd is tried again then.
func freeURLs() (client, peer url.URL, err error) {
	for _, one := range []*url.URL{&client, &peer} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return client, peer, err
		}
		defer ln.Close() // not before both are known: the second would get the first one's port
		*one = url.URL{Scheme: "http", Host: ln.Addr().String()}
	}
	return client, peer, nil
}

func runAPIServer(ctx context.Context, ln net.Listener, p *pki, etcdURL string, extra []string) error {
	s := options.NewServerRunOptions()
	fs := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, f := range s.Flags().FlagSets {
		fs.AddFlagSet(f)
	}
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	_ = klogFlags.Set("stderrthreshold", "FATAL")
	_ = klogFlags.Set("one_output", "true")
	klogFlags.VisitAll(func(f *flag.Flag) {
		if fs.Lookup(strings.ReplaceAll(f.Name, "_", "-")) == nil {
			fs.AddGoFlag(f)
		}
	})
	args := append([]string{
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--etcd-servers=" + etcdURL,
		"--tls-cert-file=" + p.path("apiserver.crt"), "--tls-private-key-file=" + p.path("apiserver.key"),
		"--client-ca-file=" + p.path("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.path("sa.key"), "--service-account-signing-key-file=" + p.path("sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=RBAC", "--allow-privileged=true",
		"--profiling=false", "--shutdown-delay-duration=0",
	}, extra...)
	if err := fs.Parse(args); err != nil {
		return err
	}
	s.SecureServing.Listener = ln
	s.SecureServing.BindPort = ln.Addr().(*net.TCPAddr).Port
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	c, err := s.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := c.Validate(); len(errs) != 0 {
		return fmt.Errorf("%v", errs)
	}
	return app.Run(ctx, c)
}

// waitReady waits for /readyz and for the default namespace to exist.
func waitReady(ctx context.Context, cfg *rest.Config, done <-chan error) error {
	c, err := clientset.NewForConfig(cfg)
	if err != nil {
		return err
	}
	deadline := time.After(120 * time.Second)
	for {
		_, err := c.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).DoRaw(ctx)
		if err == nil {
			if _, err = c.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err == nil {
				return nil
			}
		}
		select {
		case err := <-done:
			return fmt.Errorf("kube-apiserver ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("not ready after 120s: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startControllers starts what ownerReferences, `kubectl delete namespace` and
// default service accounts need; the code is kube-controller-manager's own.
func startControllers(ctx context.Context, cfg *rest.Config) error {
	cfg = rest.AddUserAgent(cfg, "devcluster-controllers")
	client, err := clientset.NewForConfig(cfg)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(cfg)
	if err != nil {
		return err
	}
	shared := informers.NewSharedInformerFactory(client, 12*time.Hour)
	metaInformers := metadatainformer.NewSharedInformerFactory(meta, 12*time.Hour)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	started := make(chan struct{})

	gb := garbagecollector.NewDependencyGraphBuilder(ctx, meta, mapper,
		garbagecollector.DefaultIgnoredResources(), informerfactory.NewInformerFactory(shared, metaInformers), started)
	gc, err := garbagecollector.NewComposedGarbageCollector(ctx, client, meta, mapper, gb)
	if err != nil {
		return err
	}
	ns := namespace.NewNamespaceController(ctx, client, meta, client.Discovery().ServerPreferredNamespacedResources,
		shared.Core().V1().Namespaces(), 5*time.Minute, v1.FinalizerKubernetes)
	sa, err := serviceaccount.NewServiceAccountsController(klog.FromContext(ctx), shared.Core().V1().ServiceAccounts(),
		shared.Core().V1().Namespaces(), client, serviceaccount.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return err
	}
	shared.Start(ctx.Done())
	metaInformers.Start(ctx.Done())
	close(started)
	go ns.Run(ctx, 5)
	go sa.Run(ctx, 1)
	go gc.Run(ctx, 5, time.Second)
	go gc.Sync(ctx, client.Discovery(), 2*time.Second) // picks up new CRDs; upstream: every 30s
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if _, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err == nil {
			return nil
		} else if !apierrors.IsNotFound(err) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("no default service account after 30s")
}
