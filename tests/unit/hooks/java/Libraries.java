import io.netty.util.HashedWheelTimer;
import io.netty.util.concurrent.AbstractScheduledEventExecutor;
import java.util.concurrent.TimeUnit;
import org.apache.tomcat.jdbc.pool.ConnectionPool;

/** A pool, an event loop and a timer that look like those of libraries. Prints what happens to them. */
public class Libraries {

    public static void main(String[] arguments) throws Exception {
        ConnectionPool pool = new ConnectionPool(2);
        AbstractScheduledEventExecutor loop = new AbstractScheduledEventExecutor();
        loop.scheduleAtFixedRate(10, TimeUnit.MILLISECONDS);
        HashedWheelTimer timer = new HashedWheelTimer(8);
        System.out.println("running");
        for (int line = System.in.read(); line != -1; line = System.in.read()) {
            if (line == '\n') {
                String tasks = loop.ran() + " runs, " + timer.ticked() + " ticks";
                System.out.println(pool.getSize() + " connections, " + tasks + ", " + pool.purges() + " purges");
            }
        }
    }
}
