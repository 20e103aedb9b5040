package warmstart.hooks;

import java.lang.reflect.Array;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * One of Netty's timers. Its thread waits in a task from the checkpoint to the restore, and then skips the ticks that it
 * missed: whole turns of its wheel, after which each timeout has the delay again that it had left.
 */
final class NettyTimer implements Schedules.Queue, InvocationHandler {

    static final String CLASS = "io/netty/util/HashedWheelTimer";
    private static final int STARTED = 1;

    private final Object timer;
    private final CountDownLatch over = new CountDownLatch(1);
    private boolean asked;
    private volatile boolean waits;

    NettyTimer(Object timer) {
        this.timer = timer;
    }

    @Override
    public boolean park() throws ReflectiveOperationException {
        boolean runs = (int) Internals.get(timer, "workerState") == STARTED;
        if (runs && !asked) {
            asked = true;
            ask();
        }
        return runs && !waits;
    }

    /** Gives the timer a task, whose type comes from the application. */
    private void ask() throws ReflectiveOperationException {
        for (Method method : timer.getClass().getMethods()) {
            if (method.getName().equals("newTimeout")) {
                Class<?> type = method.getParameterTypes()[0];
                Object task = Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, this);
                Internals.accessible(method).invoke(timer, task, 0L, TimeUnit.NANOSECONDS);
                return;
            }
        }
    }

    @Override
    public void unpark() {
        over.countDown();
    }

    /** Runs as the task. */
    @Override
    public Object invoke(Object proxy, Method method, Object[] arguments) throws Exception {
        waits = true;
        if (Thread.currentThread() == Internals.get(timer, "workerThread")) {
            long before = System.nanoTime();
            over.await();
            Object worker = Internals.get(timer, "worker");
            Field tick = Internals.field(worker.getClass(), "tick");
            long missed = (System.nanoTime() - before) / (long) Internals.get(timer, "tickDuration");
            long turn = Array.getLength(Internals.get(timer, "wheel"));
            tick.setLong(worker, tick.getLong(worker) + missed - missed % turn);
        }
        return null;
    }
}
